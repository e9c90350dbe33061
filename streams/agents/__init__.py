"""The stages: one agent, one file each. An agent reads batches and hands them to their lanes; a fold says what they do."""
