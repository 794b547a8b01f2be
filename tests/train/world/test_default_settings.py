"""The default settings of training batches."""

from loci.train.world.batches import HistorySpec


def test_default_settings() -> None:
    assert HistorySpec() == HistorySpec(
        spans=(6, 0, 0), stride=1, targets=8, budget=None, lengths=(96, 1200)
    )
