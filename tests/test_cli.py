"""The command line: what a mistake looks like, and that help answers without loading anything heavy."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from commands import fails

from polymask import cli

ROOT = Path(__file__).parents[1]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT / "src")}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("epoch=3", "'epoch' is not a configuration key. Did you mean 'epochs'?"),
        ("batch_size=4", "Did you mean 'data.batch_size'?"),
        ("model.encoder=resnet18", "Did you mean 'model.encoder_name'?"),
        ("modl.freeze_backbone=true", "Did you mean 'model.freeze_backbone'?"),
        ("dat=demo", "Did you mean 'data'?"),
        (
            "data=dema",
            "data=dema is unknown. Did you mean 'demo'? Allowed: coco, coco_masks, ctc, ctc_demo",
        ),
        ("experiment=dmo", "Did you mean 'demo'?"),
        ("data={", "data={"),
        ("model.model=unett", "model.model='unett' is unknown. Did you mean 'unet'? Allowed: unet,"),
        ("model.encoder_name=resnet19", "resnet"),
        ("data.image_size=7", "data.image_size=7 is not valid"),
        ("data.batch_size=0", "data.batch_size=0 is not valid"),
        ("trainer.precision=bf61", "Did you mean 'bf16'?"),
        ("trainer.device=cuda:9", "trainer.device=cuda:9 is not on this machine"),
        ("trainer.device=gpu", "Did you mean 'cuda'?"),
        ("trainer.threads=0", "trainer.threads=0 is not valid"),
        ("data.data_dir=nowhere", "nowhere"),
        (
            "+transforms.affine.scal=2",
            "transforms.affine.scal is unknown to albumentations.Affine. Did you mean 'scale'",
        ),
        ("transforms.affine.scale=big", "transforms.affine is not valid"),
        ("+optimizer.weight_dekay=1", "weight_decay"),
        ("run_name=a/b", "is no file name"),
        ("resume=true", "no checkpoint in"),
        ("init_from=nothing", "has no checkpoint"),
        ("epochs=abc", "epochs='abc' is not valid"),
        ("epochs=0", "epochs=0 is not valid"),
        ("seed=abc", "seed='abc' is not valid"),
        ("lr=3", "Did you mean 'optimizer.learning_rate'?"),
        ("+loss.segmentation.dice.term.smoth=1", "Did you mean 'smooth'?"),
        ("+data.reader.skip_mising=true", "Did you mean 'skip_missing'?"),
        ("trainer.clip_norm=abc", "trainer.clip_norm='abc' is not valid"),
        ("scheduler.warmup_epochs=abc", "a value of scheduler is not valid"),
        ("optimizer.learning_rate=fast", "optimizer.learning_rate='fast' is not valid"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_remedy(
    override: str, message: str, capsys: pytest.CaptureFixture[str], project: Path, lesion_folder: Path
) -> None:
    base = [f"data.data_dir={lesion_folder}", "data.classes=[MEL,NV,BKL]", "model.encoder_weights=null"]
    base = [text for text in base if text.partition("=")[0] != override.partition("=")[0]]
    assert message in fails(capsys, "train", *base, "model.encoder_name=tu-test_resnet", override)
    assert not list(project.glob("models/checkpoints/*.pt"))


def test_keys_of_the_chosen_groups_are_known(capsys: pytest.CaptureFixture[str], project: Path) -> None:
    choice = "experiment=microplastics_mask_rcnn"
    assert "Did you mean 'loss.loss_mask'?" in fails(capsys, "train", choice, "loss.loss_maks=2")
    assert "Did you mean 'model.anchor_sizes'?" in fails(capsys, "train", choice, "model.anchor_size=[8]")


def test_a_value_that_needs_quotes_is_shown_with_them(
    capsys: pytest.CaptureFixture[str], project: Path, lesion_folder: Path
) -> None:
    line = fails(capsys, "train", "data=coco", "hydra.run.dir=(.+)_tile")
    assert "'hydra.run.dir=\"(.+)_tile\"'" in line
    typed = ["data.reader.group_pattern=(.+)_tile", f"data.data_dir={lesion_folder}"]  # a text: as it is
    assert "no annotations.json" in fails(capsys, "train", "data=coco", *typed)
    quoted = ['data.reader.group_pattern="(.+)_tile"', f"data.data_dir={lesion_folder}"]
    assert "no annotations.json" in fails(capsys, "train", "data=coco", *quoted)


def test_unknown_command_prints_the_usage(capsys: pytest.CaptureFixture[str]) -> None:
    commands = (
        "{train,test,infer,baseline,analyze,compare,summarize,review,"
        "export-encoder,export-model,convert,sync}"
    )
    assert commands in fails(capsys, "trian")


def test_test_and_infer_without_a_checkpoint(capsys: pytest.CaptureFixture[str], project: Path) -> None:
    assert "train one first" in fails(capsys, "test")
    assert "train one first" in fails(capsys, "infer", "data.data_dir=.")
    assert "data.data_dir= is needed" in fails(capsys, "infer")
    assert "Did you mean 'data.data_dir'?" in fails(capsys, "infer", "data_dir=.")


def test_a_defect_keeps_its_traceback(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from polymask import runs

    def broken(cfg: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(runs, "train", broken)
    with pytest.raises(ZeroDivisionError):
        cli.main(["train"])


@pytest.mark.parametrize("script", ["train", "test", "infer"])
def test_help_names_the_keys_and_loads_nothing_heavy(script: str, tmp_path: Path) -> None:
    code = (
        f"import sys, runpy; sys.argv = ['{script}.py', '--help']\n"
        "try:\n"
        f"    runpy.run_path({str(ROOT / 'src' / (script + '.py'))!r}, run_name='__main__')\n"
        "except SystemExit as end:\n"
        "    assert not end.code\n"
        "heavy = {'torch', 'mlflow', 'pandas', 'cv2', 'matplotlib', 'segmentation_models_pytorch'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "data.data_dir" in done.stdout
    assert "run_name" in done.stdout


def test_importing_polymask_loads_neither_torch_nor_mlflow() -> None:
    code = "import polymask, sys; assert not {'torch', 'mlflow'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, check=False).returncode == 0
