import Core

extension Catalog {
  /// Names what the catalog means: the same for the same meaning, whatever files, order and comments it was written in.
  package var digest: Digest {
    // Encoding can fail for numbers JSON has no spelling of, and no option holds one.
    (try? CanonicalJSON.digest(self)) ?? Digest.of("")
  }
}
