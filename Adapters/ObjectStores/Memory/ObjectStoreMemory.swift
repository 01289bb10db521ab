// ObjectStoreMemory
