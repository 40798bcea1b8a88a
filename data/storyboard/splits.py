"""The splits of storyboard; those from the third on are tests."""

SPLITS = (
    "train",
    "val",
    "test",
    "test_novel_word",
    "test_novel_composition",
    "test_shifted_position",
)
TEST_SPLITS = SPLITS[2:]
