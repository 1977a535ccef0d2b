"""Files of noise rules: what is read, what is refused, and those that are shipped."""

import pytest
from conftest import REPOSITORY

from cromss.legend_files import read_legend
from cromss.legends import NYC_LIDAR, NYC_MERGED
from cromss.noise_rules import RULES, Rule
from cromss.rule_files import read_rules


@pytest.fixture
def rules_of(tmp_path):
    def read(rules: str, **files: str) -> list[Rule]:
        for name, text in files.items():
            (tmp_path / f"{name}.csv").write_text(text)
        head = "classes: {a: '000000', b: '111111', c: '222222'}\ncodes: {1: a, 2: b, 3: c}\n"
        (tmp_path / "mine.yaml").write_text(head + rules)
        return read_rules(tmp_path / "mine.yaml")

    return read


TABLE = "true/noisy,a,b,c\na,0.7,0.2,0.1\nb,0.05,0.95,0\nc,0.5,0.3,0.2\n"


@pytest.mark.parametrize("text", ["", "rules:", "rules: []"])
def test_no_rules(rules_of, text):
    assert rules_of(text) == []


def test_arguments_by_name_in_a_list_or_alone(rules_of):
    found = rules_of(
        "rules:\n- coarsen: 3\n- minimum_mapping_unit: {pixels: 7}\n- translate: [-2, 5]\n"
        "- shift_borders: {scale: 4, pixels: 1.7}\n- confuse: {matrix: m.csv, patch: 2}\n- shift_borders: 2.5\n",
        m="\ufeff" + TABLE.replace(",", " , "),
    )
    matrix = [[0.7, 0.2, 0.1], [0.05, 0.95, 0], [0.5, 0.3, 0.2]]
    confusion = Rule("confuse", {"matrix": matrix, "patch": 2})
    assert found == [
        Rule("coarsen", {"pixels": 3}),
        Rule("minimum_mapping_unit", {"pixels": 7}),
        Rule("translate", {"rows": -2, "columns": 5}),
        Rule("shift_borders", {"pixels": 1.7, "scale": 4}),
        confusion,
        Rule("shift_borders", {"pixels": 2.5}),
    ]
    assert rules_of(f"rules: [{{confuse: [{matrix}, 2]}}]") == [confusion]


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ("rules: 3", "rules: wanted a list"),
        ("rules: {coarsen: 3}", "rules: wanted a list"),
        ("rules: [coarsen]", "rule 1: 'coarsen': wanted one of coarsen, minimum"),
        ("rules: [{coarsen: 3, translate: [1, 2]}]", "rule 1: .*wanted one of"),
        ("rules: [{}]", "rule 1: {}: wanted one of"),
        ("rules: [{coarsen: 3}, {blur: 3}]", "rule 2: .*'blur'.*wanted one of"),
        ("rules: [{[1]: 3}]", "not plain YAML"),
        ("rules: [{coarsen: 0}]", "rule 1: coarsen: pixels 0: wanted a whole number"),
        ("rules: [{coarsen: 2.5}]", "pixels 2.5"),
        ("rules: [{coarsen: 30 m}]", "pixels '30 m'"),
        ("rules: [{coarsen: }]", "pixels None"),
        ("rules: [{coarsen: [1, 2]}]", r"coarsen \[1, 2\]: wanted pixels"),
        ("rules: [{coarsen: {size: 2}}]", "wanted pixels"),
        ("rules: [{coarsen: {}}]", "wanted pixels"),
        ("rules: [{coarsen: {3: 2}}]", "wanted pixels"),
        ("rules: [{coarsen: {pixels: 2, labels: 3}}]", "wanted pixels"),
        ("rules: [{shift_borders: {pixels: 2, rng: 3}}]", "wanted pixels, scale"),
        ("rules: [{minimum_mapping_unit: -5}]", "pixels -5"),
        ("rules: [{translate: 3}]", "wanted rows, columns"),
        ("rules: [{translate: [1, 2, 3]}]", "wanted rows, columns"),
        ("rules: [{translate: [1.5, 2]}]", "rows 1.5"),
        ("rules: [{shift_borders: -1}]", "pixels -1"),
        ("rules: [{shift_borders: .nan}]", "pixels nan"),
        ("rules: [{confuse: {patch: 4}}]", "wanted matrix, patch; matrix is missing"),
        ("rules: [{confuse: {matrix: m.csv}}]", "; patch is missing"),
        ("rules: [{confuse: {matrix: /dev/zero, patch: 4}}]", "/dev/zero: not a regular file"),
        ("rules: [{coarsen: 1e9}]", "pixels '1e9': wanted .*; write 1000000000"),
        ("rules: [{shift_borders: 25e-1}]", "; write 2.5"),
        ("rules: [{confuse: {matrix: [[1]], patch: 4}}]", "1 rows, wanted 3: a, b, c"),
        ("rules: [{confuse: {matrix: 3, patch: 4}}]", "shape"),
        ("rules: [{confuse: {matrix: m.csv, patch: -4}}]", "patch -4"),
        ("rules: [{confuse: {matrix: other.csv, patch: 4}}]", "other.csv: No such file"),
        ("rules: [{confuse: {matrix: ., patch: 4}}]", "not a regular file"),
        ("classes: {}", "'classes' is given twice"),
        ("noise: []", "unknown key 'noise'"),
    ],
)
def test_bad_files_are_refused_in_one_line(rules_of, tmp_path, rules, message):
    with pytest.raises(ValueError, match=message) as error:
        rules_of(rules, m=TABLE)
    assert str(error.value).startswith(f"--rules {tmp_path / 'mine.yaml'}:")
    assert "\n" not in str(error.value)


def test_gigantic_tables_are_not_read(rules_of, tmp_path):
    with (tmp_path / "m.csv").open("wb") as file:
        file.truncate(20_000_000)
    with pytest.raises(ValueError, match=r"m.csv: 20 MB; a confusion matrix has 10 at most"):
        rules_of("rules: [{confuse: {matrix: m.csv, patch: 4}}]")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("true/noisy,a,b,c", "true/noisy,b,a,c", "first row b, a, c; wanted a, b, c"),
        ("true/noisy,a,b,c\n", "", "first row 0.7"),
        ("b,0.05", "x,0.05", "first column a, x, c; wanted a, b, c"),
        ("c,0.5,0.3,0.2\n", "", "first column a, b; wanted"),
        ("0.95,0", "0.95", "wanted numbers"),
        ("0.95", "much", "wanted numbers"),
        ("0.95", "", "wanted numbers"),
        ("0.95", "0.85", "row 1 sums to 0.9"),
        ("0.05,0.95", "-0.05,1.05", "value -0.05"),
        (TABLE, "", "first row empty"),
        ("a,0.7", "a;0.7", "first column"),
    ],
)
def test_bad_tables_are_refused(rules_of, old, new, message):
    assert old in TABLE
    with pytest.raises(ValueError, match=message):
        rules_of("rules: [{confuse: {matrix: m.csv, patch: 4}}]", m=TABLE.replace(old, new, 1))


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"--rules .*none.yaml: No such file"):
        read_rules(tmp_path / "none.yaml")


@pytest.mark.parametrize("content", ["- 1", "3", "", "classes: {a: '000000'}"])
def test_no_legend_files(tmp_path, content):
    path = tmp_path / "mine.yaml"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"^--rules "):
        read_rules(path)


# shipped files

NLCD = {11, 12, 21, 22, 23, 24, 31, 41, 42, 43, 51, 52, 71, 72, 73, 74, 81, 82, 90, 95}


def test_nlcd_maps_every_code_and_adds_no_noise():
    path = REPOSITORY / "data_prepare" / "rules" / "nlcd.yaml"
    legend = read_legend(str(path), "rules")
    assert read_rules(path) == []
    assert legend.classes == ("other", "trees", "built")
    assert set(legend.codes) == NLCD
    assert {code for code, class_id in legend.codes.items() if class_id == 1} == {41, 42, 43, 90}
    assert {code for code, class_id in legend.codes.items() if class_id == 2} == {22, 23, 24}
    assert legend.ignored == {0, 250, 255}


def test_the_example_shows_every_rule_on_the_classes_of_nyc():
    path = REPOSITORY / "data_prepare" / "rules" / "coarse.yaml"
    legend, rules = read_legend(str(path), "rules"), read_rules(path)
    assert (legend.classes, legend.colours) == (NYC_LIDAR.classes, NYC_LIDAR.colours)
    assert (dict(legend.codes), legend.ignored) == (dict(NYC_MERGED.codes), NYC_MERGED.ignored)
    assert sorted(rule.name for rule in rules) == sorted(RULES)
