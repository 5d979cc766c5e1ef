import io

import pytest
from rich.console import Console

from deploy.exporting import export_checkpoint
from stream.errors import UsageError
from trainer import checkpoint
from trainer.checkpoint import Checkpoint


def test_person_search_is_refused_with_what_can_be_done_instead(tmp_path):
    path = tmp_path / "checkpoint.pt"
    checkpoint.save(path, Checkpoint(recipe={"method": "person-search"}, progress=1.0, step=1, network={}))
    with pytest.raises(UsageError, match="person search, which the stream cannot serve yet: evaluate it"):
        export_checkpoint(path, tmp_path / "b", "b", "1", "", [], (None, None), Console(file=io.StringIO()))
    assert not (tmp_path / "b").exists()
