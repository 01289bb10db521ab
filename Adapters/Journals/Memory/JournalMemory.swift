// JournalMemory
