"""An answer is right only from the model that was asked, and for the rows that it was asked for."""

import numpy as np
import pytest
from bridgechaos.answers import read_answer, read_record
from bridgechaos.book import Book, model_and_rows
from bridgechaos.entries import Entry, Want
from bridgechaos.models import MOODY, STEADY, Models
from taskiq import TaskiqResult

from bridge.client import InferenceResult
from bridge.errors import InferenceFailedError
from bridge.messages import encode_result


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return Models(tmp_path_factory.mktemp("models"))


def entry(asked=STEADY):
    return Entry("somebody", Want.SUCCESS, (3, 4), "a", confirmed=True, asked=asked)


def answer(y, model=STEADY):
    return InferenceResult(model, "1", {"y": y})


def test_the_models_answer_differently(models):
    assert not np.allclose(models.answers(STEADY, [3]), models.answers(MOODY, [3]))


@pytest.mark.parametrize("model", [STEADY, MOODY])
def test_the_right_answer_is_right(models, model):
    y = models.answers(model, [3, 4])
    assert read_answer(models, entry(model), answer(y, model)).right
    assert read_answer(models, None, answer(y, model)).right


def test_other_answers_are_wrong(models):
    y, other = models.answers(STEADY, [3, 4]), models.answers(MOODY, [3, 4])
    for given in (
        answer(other),  # another model's numbers under the name of the right one
        answer(other, MOODY),
        answer(y, MOODY),
        answer(models.answers(STEADY, [3, 5])),
        answer(y[:1]),
        answer(y[::-1]),
        InferenceResult(STEADY, "1", {}),
    ):
        found = read_answer(models, entry(), given)
        assert not found.right
        assert found.text
    assert not read_answer(models, None, answer(other)).right
    assert not read_answer(models, None, answer(y[:0])).right
    assert not read_answer(models, None, answer(y, "nobody")).right


def test_a_record_is_read_as_a_caller_reads_it(models):
    def record(**fields):
        usual = {"is_err": False, "return_value": None, "execution_time": 0.0}
        return encode_result(TaskiqResult(**(usual | fields)))

    y = models.answers(MOODY, [3, 4]).tolist()
    reply = {"model_name": MOODY, "model_version": "1", "outputs": {"y": y}}
    found = read_record(models, entry(MOODY), record(return_value=reply))
    assert found.right
    assert not found.error
    assert not read_record(models, entry(STEADY), record(return_value=reply)).right
    failed = record(is_err=True, error=InferenceFailedError("no"))
    assert read_record(models, entry(), failed).error == "InferenceFailedError"
    assert not read_record(models, entry(), b"nonsense").right
    # Of a client that was not told its id:
    assert read_record(models, None, record(return_value=reply)).right
    trained = read_record(models, None, record(return_value=reply | {"outputs": None}))
    assert not trained.right
    del reply["outputs"]
    trained = read_record(models, None, record(return_value=reply))
    assert (trained.right, trained.version) == (True, f"{MOODY}/1")
    assert not read_record(models, None, record(return_value={})).right


def test_the_book_remembers_which_model_was_asked():
    class First:
        def random(self):
            return 1.0

        def choice(self, models):
            return models[-1]

    asking = Book(1).open("somebody", Want.SUCCESS)
    model, _ = model_and_rows(asking, First())
    assert asking.asked == model == MOODY
