import Core

extension Repository {
  /// Bytes of a pack: as many as asked for, whatever the store promises.
  func bytes(_ range: Range<Int>, of pack: Digest, isMetadata: Bool = false) async throws(VaultError) -> [UInt8] {
    let name = ObjectName(.data, pack)
    do throws(StoreError) {
      let bytes = try await isMetadata ? store.getMetadata(name, range: range) : store.get(name, range: range)
      guard bytes.count == range.count else {
        throw StoreError.corrupt(name, "the store gave \(bytes.count) bytes of \(range.count)")
      }
      return bytes
    } catch { throw VaultError(error, pack: pack, range: range) }
  }

  /// The same, into memory that is used over and over.
  func read(_ range: Range<Int>, of pack: Digest, into pages: PageBuffer) async throws(VaultError) {
    let name = ObjectName(.data, pack)
    do throws(StoreError) {
      try await store.get(name, range: range, into: pages)
      guard pages.count == range.count else {
        throw StoreError.corrupt(name, "the store gave \(pages.count) bytes of \(range.count)")
      }
    } catch { throw VaultError(error, pack: pack, range: range) }
  }

  /// Looks whether the store has what it said it stored. For what nothing else would miss, such as a snapshot, and for
  /// what is about to be the only copy.
  ///
  /// - Throws: ``VaultError/notKept(_:_:)`` if it hasn't, after some seconds in which a slow one may catch up.
  static func confirm(
    _ name: ObjectName, _ bytes: [UInt8], in store: any ObjectStore, _ time: any Timekeeper
  ) async throws(VaultError) {
    for pause in [.milliseconds(200), .seconds(1), .seconds(5), nil] as [Duration?] {
      var found: [UInt8]?
      do throws(StoreError) { found = try await store.get(name) } catch {
        guard case .notFound = error else { throw VaultError(error) }
      }
      if let found {
        guard found == bytes else { throw .notKept(name, "it gives back other bytes") }
        return
      }
      guard let pause else { break }
      do { try await time.sleep(for: pause) } catch { throw .cancelled }
    }
    throw .notKept(name, "it is not there")
  }

  /// Seals and writes a file that must be there when this returns, and returns its name.
  func writeConfirmed(_ kind: ObjectKind, _ json: [UInt8]) async throws(VaultError) -> Digest {
    let sealed = try await seal(kind, json)
    try await send(kind, sealed)
    try await Self.confirm(ObjectName(kind, sealed.id), sealed.bytes, in: store, settings.time)
    return sealed.id
  }
}
