// ObjectStoreLocal
