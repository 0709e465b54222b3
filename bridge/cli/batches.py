"""Which batches Triton ran."""

from bridge.triton_client import TritonClient


async def batches_of(triton: TritonClient, model: str) -> dict[int, int]:
    """How many batches of each size a model ran: rows -> count, all servers and versions together.

    Args:
        triton: is asked for its statistics.
        model: its name.
    """
    counts: dict[int, int] = {}
    for version in await triton.statistics(model):
        for batch in version.batch_stats:
            size = int(batch.batch_size)
            counts[size] = counts.get(size, 0) + int(batch.compute_infer.count)
    return counts


def by_size(batches: dict[int, int]) -> dict[str, int]:
    """As JSON has them, the smallest first."""
    return {str(size): batches[size] for size in sorted(batches)}
