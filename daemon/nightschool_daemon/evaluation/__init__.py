"""The examiner: asks incumbent and candidate the same held-out prompts and has their answers scored."""
