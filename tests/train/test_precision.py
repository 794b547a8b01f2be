import torch

from loci.train import precision
from loci.train.precision import matmul_type


def test_what_is_asked_for_is_taken() -> None:
    assert matmul_type("float32") is torch.float32
    assert matmul_type("bfloat16") is torch.bfloat16


def test_auto_takes_bfloat16_only_where_it_is_clearly_faster(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    for seconds, expected in ((0.1, torch.bfloat16), (0.9, torch.float32), (9.0, torch.float32)):
        taken = {torch.bfloat16: seconds, torch.float32: 1.0}
        monkeypatch.setattr(precision, "_seconds", taken.__getitem__)
        assert matmul_type("auto") is expected


def test_both_types_can_be_timed_here() -> None:
    assert matmul_type("auto") in (torch.float32, torch.bfloat16)
