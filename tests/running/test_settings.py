"""Settings: what is read, what wins, and what every refusal says."""

import re

import pytest
import yaml
from images import drawings, png

from pml_slade.exceptions import ConfigError
from pml_slade.methods import METHODS
from pml_slade.models import build_model, save_model
from pml_slade.presets import preset_names
from pml_slade.running.loading import load_config
from pml_slade.running.settings import Config

FOLDERS = ("data.labeled=a", "data.unlabeled=b")


def own(*overrides):
    return load_config(None, [*FOLDERS, *overrides])


def refusal(*overrides, source=None):
    """The message that these settings are refused with."""
    with pytest.raises(ConfigError) as caught:
        load_config(source, [*(() if source else FOLDERS), *overrides])
    return str(caught.value)


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_loads(name):
    config = load_config(name, FOLDERS if name in ("s2", "best", "paper") else [])  # recipes, for any data
    assert config.data.kind == name if name in ("glyphs", "omniglot") else "images"
    assert "teacher" in config.rows


def test_of_several_files_the_later_ones_win(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("teacher: {lr: 0.5, loss: {name: TripletMarginLoss}}\n")
    config = load_config(["s2", "cub200", file])
    assert (str(config.data.labeled), config.data.image_size) == ("CUB200", 227)
    assert (config.teacher.lr, config.teacher.weight_decay) == (0.5, 1e-4)
    assert config.teacher.loss.arguments == {}
    assert load_config([file, "s2", "cub200"]).teacher.lr == 1e-6


def test_arguments_of_another_optimizer_do_not_stay(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("teacher: {optimizer: Adam, optimizer_arguments: {}}\n")
    assert load_config(["s2", "cub200", file]).teacher.further_arguments == {}
    assert load_config(["s2", "cub200"]).teacher.further_arguments == {"momentum": 0.9}


def test_the_usual_arguments_and_rate_of_pretraining_are_those_of_its_optimizer():
    assert own().pretraining.further_arguments == {"momentum": 0.9}
    adam = own("pretraining.optimizer=Adam", "pretraining.lr=0.001").pretraining
    assert (adam.further_arguments, adam.learning_rate) == ({}, 0.001)
    assert "pretraining.lr missing: Adam has no usual one" in refusal("pretraining.optimizer=Adam")


def test_a_fallback_counts_where_nothing_else_says():
    steps = {"pretraining.steps": 500}
    for given, expected in (((), 500), (("pretraining.steps=0",), 500), (("pretraining.steps=250",), 250)):
        assert load_config("glyphs", list(given), None, steps).pretraining.steps == expected


def test_pretraining_alone_needs_steps_and_images_of_one_kind():
    assert load_config(None, ["data.unlabeled=b", "rows=[]", "pretraining.steps=250"]).rows == []
    assert "there is nothing to do" in refusal("rows=[]")
    for overrides in (["data.unlabeled=b"], ["rows=[]", "pretraining.steps=250"]):
        with pytest.raises(ConfigError, match=r"data\..* missing"):
            load_config(None, overrides)
    assert "pretraining.steps=251 must be a multiple" in refusal("pretraining.steps=251")


def test_the_learning_rate_of_pretraining_goes_with_the_batch():
    assert own("pretraining.batch_size=128").pretraining.learning_rate == pytest.approx(0.3)
    assert own("pretraining.lr=0.01").pretraining.learning_rate == 0.01


def test_a_gallery_needs_test_images():
    assert "give data.test, too" in refusal("data.gallery=c")


def test_folders_are_all_that_has_to_be_given():
    config = own()
    assert (str(config.data.labeled), str(config.data.unlabeled)) == ("a", "b")
    assert config.rows == ["start", "teacher", "control", "slade"]
    assert config.teacher.loss.name == "ContrastiveLoss"
    assert config.teacher.loss.arguments == {"pos_margin": 0.0, "neg_margin": 0.5}
    assert config.student.unlabeled_weight is own("model.weights=null").student.unlabeled_weight is None
    assert (config.student.mining, config.student.iterations, config.student.num_clusters) == (
        "none",
        1,
        None,
    )


def test_overrides_win_over_the_file_and_the_last_one_wins(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("data: {labeled: a, unlabeled: b}\nstudent: {lr: 0.5, basis: {lr: 0.25}}\nseed: 3\n")
    config = load_config(file, ["student.basis.lr=0.125", "seed=4", "seed=5"])
    assert (config.student.lr, config.student.basis.lr, config.seed) == (0.5, 0.125, 5)


def test_an_override_leaves_its_neighbours_at_their_defaults():
    config = own("student.basis.momentum=0.5")
    assert config.student.basis.momentum == 0.5
    assert config.student.basis == Config.model_fields["student"].default.basis.model_copy(
        update={"momentum": 0.5}
    )


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("student.lr=1e-3", 1e-3),
        ("student.lr=1", 1.0),
        ("student.steps=500", 500),
        ("student.num_clusters=null", None),
        ("student.basis.regularizer=null", None),
        ("student.basis.straight_through=false", False),
        ("model.hidden_sizes=[64, 32]", [64, 32]),
        ("data.labeled_alphabets=[Greek, Latin]", ["Greek", "Latin"]),
        ("data.labeled_alphabets=7", 7),
        ("rows=[teacher, pseudo]", ["teacher", "pseudo"]),
        ("device=cuda:1", "cuda:1"),
    ],
)
def test_values_are_yaml(override, value):
    found = own(override)
    for part in override.partition("=")[0].split("."):
        found = getattr(found, part)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("margin", ["1e-3", "0.001"])
def test_a_number_for_a_loss_is_a_number_however_it_is_written(tmp_path, margin):
    file = tmp_path / "run.yaml"
    loss = f"{{name: TripletMarginLoss, margin: {margin}}}"
    file.write_text(f"data: {{labeled: a, unlabeled: b}}\nteacher: {{loss: {loss}}}\n")
    from_file = load_config(file)
    from_key = own("teacher.loss.name=TripletMarginLoss", f"teacher.loss.margin={margin}")
    from_mapping = own(f"teacher.loss={loss}")
    for config in (from_file, from_key, from_mapping):
        assert config.teacher.loss.arguments == {"margin": 0.001}


def test_a_loss_takes_any_argument_and_drops_those_of_the_default():
    loss = own("student.loss.name=TripletMarginLoss", "student.loss.margin=0.2").student.loss
    assert (loss.name, loss.arguments) == ("TripletMarginLoss", {"margin": 0.2})


@pytest.mark.parametrize(
    ("typo", "meant"),
    [
        ("sead", "seed"),
        ("data.labelled", "data.labeled"),
        ("model.embeding_size", "model.embedding_size"),
        ("teacher.batchsize", "teacher.batch_size"),
        ("student.step", "student.steps"),
        ("student.basis.regulariser", "student.basis.regularizer"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_one_at_any_depth(typo, meant):
    assert refusal(f"{typo}=1") == f"{typo}: unknown key; did you mean {meant}?"


def test_all_wrong_settings_are_named_at_once():
    message = refusal("student.steps=0", "teacher.lr=-1", "sead=1")
    assert all(f"{key}: " in message for key in ("sead", "student.steps", "teacher.lr"))
    assert "\n" not in message


def test_a_file_in_which_a_key_stands_twice_is_refused(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text("teacher:\n  lr: 0.1\n  steps: 8\n  lr: 0.2\n")
    with pytest.raises(ConfigError, match=r"'lr' stands there twice.* line 4"):
        load_config(file)


@pytest.mark.parametrize("text", ["data: [1, 2]", "teacher: fast", "student: 5"])
def test_what_is_no_mapping_is_not_lost_when_settings_are_laid_over_it(tmp_path, text):
    file = tmp_path / "config.yaml"
    file.write_text(text)
    key = text.partition(":")[0]
    for more in ({"overrides": [f"{key}.x=1"]}, {"values": {f"{key}.x": 1}}):
        with pytest.raises(ConfigError, match=f"^{key} must hold settings by name"):
            load_config(file, **more)


@pytest.mark.parametrize("key", ["seed", "teacher.steps", "checkpoint_minutes", "data.workers", "teacher.lr"])
def test_yes_is_no_number(key):
    assert refusal(f"{key}=yes") == f"{key}: Input should be a number, got True"


@pytest.mark.parametrize("override", ["seed=2147483648", "seed=1" + "0" * 400, "data.workers=100000"])
def test_numbers_too_large_for_what_reads_them_are_refused(override):
    assert "less than or equal" in refusal(override)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("student.steps", "many"),
        ("student.steps", "1.5"),
        ("student.steps", "0"),
        ("teacher.lr", "0"),
        ("teacher.lr", ".inf"),
        ("teacher.lr", ".nan"),
        ("teacher.images_per_class", "1"),
        ("student.basis.momentum", "1.0"),
        ("student.basis.variance_weight", "-1"),
        ("student.basis.regularizer", "l2"),
        ("student.num_clusters", "1"),
        ("student.mining", "hard"),
        ("data.validation_fraction", "1"),
        ("data.image_size", "8"),
        ("data.mode", "CMYK"),
        ("data.kind", "movies"),
        ("seed", "-1"),
        ("epoch_steps", "0"),
        ("teacher.loss", "TripletMarginLoss"),
        ("model", "resnet50"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_with_its_key_and_itself(key, value):
    message = refusal(f"{key}={value}")
    assert message.startswith(f"{key}: ")
    assert str(yaml.safe_load(value)) in message


def test_an_unknown_row_is_refused_with_the_known_ones():
    message = refusal("rows=[teacher, sclade]")
    assert message.startswith("rows: no row 'sclade'; did you mean slade? There are ")
    assert all(row in message for row in METHODS)


def test_a_margin_of_cosines_that_the_basis_does_not_take_is_refused():
    message = refusal("student.basis.logit_scale=null")
    assert message.startswith("student.basis.cluster_margin=0.1 is of cosines")
    load_config(["omniglot"], ["student.basis.logit_scale=null", "student.basis.cluster_margin=0"])
    load_config(["omniglot"], ["student.basis.logit_scale=null", "student.basis.clusters=false"])


def test_a_loss_on_the_pool_that_no_row_reads_is_refused():
    given = "student.unlabeled_loss={name: ContrastiveLoss}"
    message = refusal(given)
    assert message.startswith("student.unlabeled_loss=ContrastiveLoss: no row of this run reads it")
    assert "student.basis.clusters=true" in message
    for reads in ("rows=[slade, pseudo]", "rows=[iterated]", "student.basis.clusters=false"):
        assert own(given, reads).student.unlabeled_loss.name == "ContrastiveLoss"


def test_a_missing_folder_is_named_with_what_to_do():
    with pytest.raises(
        ConfigError, match=r"^data\.unlabeled missing: give folders of images.*data\.kind=glyphs"
    ):
        load_config(None, ["data.labeled=a"])
    with pytest.raises(ConfigError, match=r"^data\.labeled and data\.unlabeled missing"):
        load_config(None, ["data.test=a"])


def test_settings_without_any_data_say_which_folders_are_missing():
    with pytest.raises(ConfigError, match=r"data\.labeled and data\.unlabeled missing"):
        load_config()


def test_a_loss_without_a_name_is_refused():
    assert refusal("teacher.loss.margin=1").startswith("teacher.loss.name: missing")


@pytest.mark.parametrize("stage", ["teacher", "student"])
def test_steps_must_be_a_multiple_of_epoch_steps_where_they_are_more(stage):
    own("epoch_steps=100", f"{stage}.steps=300")
    own("epoch_steps=100", "student.basis.warmup=10", f"{stage}.steps=70")
    message = refusal("epoch_steps=100", f"{stage}.steps=250")
    assert message == f"{stage}.steps=250 must be a multiple of epoch_steps=100"


@pytest.mark.parametrize("stage", ["teacher", "student"])
def test_a_batch_must_be_a_multiple_of_the_images_per_class(stage):
    message = refusal(f"{stage}.batch_size=9")
    assert message == f"{stage}.batch_size=9 must be a multiple of {stage}.images_per_class=2"


def test_a_joint_batch_that_the_control_cannot_fill_by_class_is_refused():
    own("student.unlabeled_batch_size=31", "rows=[slade]")
    for row in ("control", "memory"):
        message = refusal("student.unlabeled_batch_size=31", f"rows=[{row}]")
        assert "student.unlabeled_batch_size=31" in message
        assert "student.images_per_class=2" in message


@pytest.mark.parametrize("warmup", [50, 60])
def test_a_warmup_that_leaves_no_step_is_refused(warmup):
    message = refusal("student.steps=50", f"student.basis.warmup={warmup}")
    assert f"student.basis.warmup={warmup}" in message
    assert "student.steps=50" in message
    for row in ("pseudo", "control"):
        own("student.steps=50", f"student.basis.warmup={warmup}", f"rows=[{row}]")
    own("student.steps=50", "student.basis.warmup=49")


def test_mining_by_eq7_needs_the_statistics_of_a_regularizer():
    pairs = ("student.mining=eq7", "student.basis.clusters=false")
    own(*pairs, "student.basis.regularizer=sd")
    message = refusal(*pairs, "student.basis.regularizer=null")
    assert "student.mining=eq7" in message
    assert "student.basis.regularizer must not be null" in message


def test_the_teacher_is_always_trained_and_defaults_are_not_shared():
    assert own("rows=[slade]").rows == ["teacher", "slade"]
    own().rows.append("oracle")
    assert own().rows == ["start", "teacher", "control", "slade"]


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("student.loss.name=MultiSimilarityLoss", "student.loss.alpha=2", "student.num_clusters=9"),
        ("teacher.miner={name: MultiSimilarityMiner, epsilon: 0.2}", "model.hidden_sizes=[4]"),
        ("output=runs/some where", "model.weights=null", "data.labeled_alphabets=[Greek]"),
    ],
)
def test_resolved_settings_read_back_as_they_were(tmp_path, overrides):
    config = own(*overrides)
    file = tmp_path / "config.yaml"
    file.write_text(config.to_yaml())
    assert load_config(file) == config
    assert load_config(file).to_yaml() == config.to_yaml()


@pytest.mark.parametrize("text", ["a: [1", "key: value: value", "\tseed: 1"])
def test_a_file_that_is_not_yaml_is_named(tmp_path, text):
    file = tmp_path / "run.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=rf"^{re.escape(str(file))}: not valid YAML"):
        load_config(file)


def test_an_image_given_for_a_config_is_refused(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_bytes(png(drawings(1)[0][0]))
    with pytest.raises(ConfigError, match=re.escape(str(file))):
        load_config(file)


@pytest.mark.parametrize(("text", "kind"), [("- a\n- b\n", "list"), ("just words\n", "str"), ("3\n", "int")])
def test_a_file_without_settings_is_refused(tmp_path, text, kind):
    file = tmp_path / "run.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=f"must hold a mapping of settings, got {kind}"):
        load_config(file)


def test_a_missing_file_lists_the_preset_names():
    with pytest.raises(ConfigError) as caught:
        load_config("nowhere.yaml")
    assert "nowhere.yaml" in str(caught.value)
    assert all(name in str(caught.value) for name in preset_names())


@pytest.mark.parametrize("text", ["student.lr", "=3", "student.lr:3"])
def test_what_is_no_override_is_refused_with_an_example(text):
    with pytest.raises(ConfigError, match=r"is not an override: write key=value"):
        load_config("glyphs", [text])


def test_an_override_that_is_not_yaml_is_named():
    with pytest.raises(ConfigError, match=r"rows=\[a: not valid YAML"):
        load_config("glyphs", ["rows=[a"])


def test_best_is_what_a_run_has_by_default():
    """Written out, so that it can be read and named; the defaults are what they are because of it."""
    best, default = load_config("best", FOLDERS), own()
    assert best == default


def test_paper_is_the_recipe_of_the_paper():
    config = load_config("paper", FOLDERS)
    assert config.rows == ["teacher", "control", "pseudo", "basis", "slade"]
    assert (config.student.clustering, config.student.smooth, config.student.relabel_every) == (
        "kmeans",
        False,
        0,
    )
    assert (config.student.mining, config.student.basis_weight, config.student.unlabeled_weight) == (
        "eq7",
        0.25,
        1,
    )
    assert (config.student.basis.regularizer, config.student.basis.clusters) == ("sd", False)
    assert (config.teacher.average, config.student.average, config.tolerance) == (None, None, 0)
    assert (config.teacher.images_per_class, config.student.images_per_class) == (4, 4)
    assert not config.teacher.classifier


@pytest.mark.parametrize(
    ("settings", "trunk"),
    [
        ((), "resnet50"),
        (("model.weights=some/timm_of_mine.pth",), "resnet50"),
        (("model.weights=some/tf_efficientnet_lite0.safetensors",), "timm/tf_efficientnet_lite0"),
        (("model.weights=some/resnet18.pth",), "torchvision/resnet18"),
        (("model.weights=some/resnet18.pth", "model.trunk=convnet"), "convnet"),
    ],
)
def test_the_trunk_is_the_one_that_its_weights_are_named_after(settings, trunk):
    assert load_config(None, [*FOLDERS, *settings]).model.trunk == trunk


def test_the_trunk_is_the_one_that_a_model_of_ours_says_it_has(tmp_path):
    models = build_model("timm/resnet10t", 4)
    meta = {"trunk": "timm/resnet10t", "embedding_size": 4, "hidden_sizes": [], "in_channels": 3}
    path = save_model(tmp_path / "any.safetensors", models, meta)
    assert load_config(None, [*FOLDERS, f"model.weights={path}"]).model.trunk == "timm/resnet10t"


@pytest.mark.parametrize(
    ("settings", "train", "strength"),
    [
        ((), "last", "mild"),
        (("model.weights=null",), "all", "mild"),
        (("data.transform=small",), "all", "strong"),
        (("model.train=head", "data.augmentation=strong"), "head", "strong"),
        (("pretraining.steps=250",), "all", "mild"),
    ],
)
def test_photographs_and_weights_say_what_is_trained_and_how_images_are_distorted(settings, train, strength):
    config = load_config(None, [*FOLDERS, *settings])
    assert (config.model.train, config.data.augmentation) == (train, strength)
    assert config.model.freeze_batchnorm == (train != "all")
    assert load_config(None, None, config.model_dump(mode="json")) == config
