"""``vrm pretrain-generator``: trains the small video generators that come with the library."""
