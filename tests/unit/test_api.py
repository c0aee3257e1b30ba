"""What `import playloom` offers: a frozen list of names, and a model used from Python."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import playloom
from conftest import loud_model, tiny_config
from engine_toys import action, prompt_of
from playloom.actions.codec import REST_VALUES, values_to_rows
from playloom.errors import ActionError, BadInputError, CheckpointError, MissingExtraError, StorageError
from playloom.media.clips import read_dream_clip
from playloom.media.images import read_picture
from playloom.models.checkpoint import save_model
from playloom.provenance import stamp
from video_toys import read_frames, read_manifest

PUBLIC = [
    "ControllerState",
    "Engine",
    "GeneratedClip",
    "Model",
    "PlayloomError",
    "Prompt",
    "Sampling",
    "Session",
    "StepInput",
    "StepResult",
    "WorldModelEnv",
    "WorldModelVectorEnv",
    "__version__",
    "bundled_models",
    "envs",
    "list_prompts",
    "load",
    "load_model",
]
TURN = {"right_stick_x": 1.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("api") / "tiny"
    save_model(path, loud_model(tiny_config()), dtype=None)
    return path


@pytest.fixture(scope="module")
def model(folder) -> playloom.Model:
    return playloom.load(folder, device="cpu", decode_order=1)


def python(code: str, *arguments: str) -> str:
    return subprocess.run([sys.executable, "-c", code, *arguments], check=True, capture_output=True, text=True).stdout


def test_the_public_names_are_these():
    assert sorted(playloom.__all__) == PUBLIC == dir(playloom)
    assert all(getattr(playloom, name) is not None for name in PUBLIC)
    with pytest.raises(AttributeError, match="Dreamer"):
        playloom.Dreamer  # noqa: B018


def test_type_checkers_see_the_same_names():
    stub = Path(playloom.__file__).with_suffix(".pyi")
    nodes = ast.parse(stub.read_text(encoding="utf-8")).body
    typed = {alias.asname for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert typed | {"__version__"} == set(PUBLIC) and stub.with_name("py.typed").is_file()


@pytest.mark.slow  # processes
def test_the_import_is_light_and_registers_the_environments_in_either_order():
    known = "; print('playloom/Dream-v0' in gymnasium.registry, 'torch' in sys.modules)"
    assert python("import sys, playloom; print(*{'torch', 'gymnasium', 'numpy'} & set(sys.modules))") == "\n"
    for first, second in (("playloom", "gymnasium"), ("gymnasium", "playloom")):
        assert python(f"import sys, {first}, {second}{known}") == "True False\n"


def test_a_clip_is_generated_from_any_form_of_actions_and_saved_in_any_form(model, tmp_path):
    prompt = prompt_of(4)
    clip = model.dream(prompt, "turn_right for 3", seed=5)
    assert clip.frames.shape == (3, 16, 24, 3) and clip.frames.dtype == np.uint8 and len(clip) == 3
    assert (clip.actions[:, 14] == 10).all() and clip.manifest.seed == 5
    raw = values_to_rows(clip.actions, "named")
    for same, schema in (
        (TURN, None),
        ([TURN] * 3, None),
        (clip.actions, None),
        (raw, "named"),
        (raw.tolist(), "named"),
    ):
        again = model.dream(prompt, same, steps=3, schema=schema, seed=5)
        assert np.array_equal(again.frames, clip.frames) and np.array_equal(again.actions, clip.actions)
    for path in ("a.gif", "a.mp4", "a.png", "a.npz", "folder"):
        assert clip.save(str(tmp_path / path)) == tmp_path / path
    assert len(read_frames(tmp_path / "a.mp4")) == 7 and read_manifest(tmp_path / "a.gif") == clip.manifest
    assert read_picture(tmp_path / "a.png").manifest == clip.manifest
    assert np.array_equal(read_dream_clip(tmp_path / "a.npz").frames_THWC[4:], clip.frames), "arrays are unmarked"
    assert np.array_equal(read_picture(tmp_path / "folder" / "raw" / "01.png").frame_HWC, stamp(clip.frames[0]))
    assert clip.save(tmp_path / "folder").name == "folder-2"
    with pytest.raises(BadInputError, match="ending"):
        clip.save(tmp_path / "clip.jpeg")


def test_a_notebook_shows_a_clip_and_its_notes(model):
    shown = model.dream(prompt_of(2), "forward=0.5")._repr_html_()
    assert 'src="data:image/gif;base64,' in shown and "forward" not in shown.partition("<br>")[0]
    assert "played as 0.625" in shown


@pytest.mark.parametrize(
    ("actions", "schema", "word"),
    [
        ([[0] * 16] * 2, None, "schema"),
        (np.zeros((2, 16)), None, "schema"),
        ([[0] * 15] * 2, "named", "16"),
        ({"right_stick_x": 2}, None, "right_stick_x"),
        ({"wings": 1}, None, "wings"),
        ([TURN, object()], "named", "names"),
        (7, None, "names"),
    ],
)
def test_actions_that_are_none_are_refused(model, actions, schema, word):
    with pytest.raises(ActionError, match=word):
        model.dream(prompt_of(1), actions, schema=schema)


def test_a_session_takes_named_inputs_and_numbers_of_a_named_encoding(model):
    session = model.open(prompt_of(2), seed=3)
    twin = session.fork()
    assert np.array_equal(session.step(TURN).codes_N, twin.step("turn_right").codes_N)
    step = session.step([0.0] * 16, schema="named")
    assert np.array_equal(step.action_A, REST_VALUES)
    assert np.array_equal(twin.step(step.action_A).codes_N, step.codes_N)
    for wrong, word in (([0] * 16, "schema"), ("forward for 2", "2 steps"), (action(0).astype(float), "schema")):
        with pytest.raises(ActionError, match=word):
            session.step(wrong)
    assert (session.index, twin.index) == (2, 2)
    session.close()
    twin.close()


def test_what_a_prompt_is_short_of_is_a_warning(model, tmp_path):
    from PIL import Image

    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(tmp_path / "a.png")
    with pytest.warns(UserWarning, match="cropped"):
        session = model.open(tmp_path / "a.png", context=1)
    assert session.index == 0
    session.close()


def test_names_and_reprs_are_short(model, folder):
    assert repr(model).startswith("Model(tiny") and repr(model.engine).startswith("Engine(tiny")
    assert len(repr(model.engine.model)) < 80 and "step 0" in repr(model.open(prompt_of(1)))
    assert len(repr(model.dream(prompt_of(1), "rest"))) < 200
    assert playloom.load_model(str(folder)).fingerprint == playloom.load_model(folder).fingerprint
    assert playloom.load_model("arena-live").config.name == "arena-live"


def test_a_model_is_saved_and_loaded_again(model, tmp_path):
    model.save_pretrained(str(tmp_path / "saved"))
    again = playloom.Model.from_pretrained(str(tmp_path / "saved"), device="cpu", decode_order=1)
    assert again.engine.model.fingerprint == model.engine.model.fingerprint
    prompt = prompt_of(3)
    assert np.array_equal(again.dream(prompt, "forward for 2").frames, model.dream(prompt, "forward for 2").frames)


@pytest.mark.parametrize("options", [{"start_step": 1}, {"context": 2}])
def test_what_does_not_apply_to_a_prompt_is_refused(model, options):
    for start in (model.dream, model.open):
        with pytest.raises(BadInputError, match="do not apply to a Prompt"):
            start(prompt_of(4), **options)


def test_a_place_that_cannot_hold_a_model_is_one_sentence(model, tmp_path):
    (tmp_path / "file").touch()
    for one in (model, playloom.load("arena-live")):
        with pytest.raises(StorageError, match="choose another place"):
            one.save_pretrained(tmp_path / "file")


def test_float16_is_kept_where_it_is_exact(tmp_path):
    bundled = playloom.load("arena-live")
    bundled.save_pretrained(tmp_path)
    assert playloom.load(tmp_path).engine.model.fingerprint == bundled.engine.model.fingerprint


def test_the_command_of_a_clip_names_its_model_and_backend(tmp_path):
    playloom.load("arena-live").save_pretrained(tmp_path / "own")
    for model, name in (("arena-live", "arena-live"), (tmp_path / "own", str(tmp_path / "own"))):
        clip = playloom.load(model, backend="onnx").dream("plaza-explorer", "rest", steps=1)
        assert f"--model {name} " in clip.request["command"] and "--backend onnx " in clip.request["command"]


def test_a_model_of_the_hub_is_loaded_from_its_cache(folder, model, tmp_path, monkeypatch):
    pytest.importorskip("huggingface_hub")
    commit = "0" * 40
    place = tmp_path / "models--me--toy"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text(commit)
    model.save_pretrained(place / "snapshots" / commit)
    monkeypatch.chdir(tmp_path)
    found = playloom.load("me/toy", cache_dir=tmp_path, local_files_only=True)
    assert found.engine.model.fingerprint == model.engine.model.fingerprint
    with pytest.raises(CheckpointError, match="you/toy"):
        playloom.load("you/toy", cache_dir=tmp_path, local_files_only=True)
    with pytest.raises(CheckpointError, match="did you mean"):
        playloom.load("arena-lief")


def test_a_model_is_pushed_with_its_card(model, folder, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    sent: dict[str, bytes] = {}

    class Api:
        def __init__(self, token):
            assert token == "secret"

        def create_repo(self, repo_id, *, private, exist_ok):
            assert (repo_id, private, exist_ok) == ("me/toy", True, True)

        def upload_folder(self, *, repo_id, folder_path, commit_message):
            sent.update({path.name: path.read_bytes() for path in Path(folder_path).iterdir()})
            return type("Commit", (), {"commit_url": "https://hub/commit"})

    monkeypatch.setattr(hub, "HfApi", Api)
    assert model.push_to_hub("me/toy", private=True, token="secret") == "https://hub/commit"
    assert sent.keys() == {path.name for path in folder.iterdir()} | {"README.md"}
    assert sent["README.md"].startswith(b"---\nlibrary_name: playloom") and sent["card.md"] in sent["README.md"]


def test_a_missing_hub_is_one_sentence(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingExtraError, match="hub"):
        playloom.load("me/toy")


@pytest.mark.slow
@pytest.mark.parametrize("page", ["python.md", "engine.md"])
def test_the_code_of_the_docs_runs(page, tmp_path, monkeypatch):
    text = (Path(__file__).parents[2] / "docs" / page).read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    for block in blocks:
        exec(block, names)
    assert blocks and len(names) > 1
