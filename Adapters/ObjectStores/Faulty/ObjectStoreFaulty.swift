// ObjectStoreFaulty
