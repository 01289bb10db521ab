// ObjectStoreContract
