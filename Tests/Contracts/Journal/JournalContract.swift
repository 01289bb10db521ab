// JournalContract
