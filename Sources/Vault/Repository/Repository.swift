import Core
import IO
import Synchronization

/// A repository in restic's format, versions 1 and 2: blobs in packs, found through indexes, held together by
/// snapshots, sealed with a master key that passwords unlock.
///
/// May be used from many tasks at once, several backups side by side included. Work on a repository happens inside
/// ``withLock(exclusive:wait:loadingIndex:_:)``: a writer without a lock loses data to a prune.
package final class Repository: Sendable {
  package let store: any ObjectStore
  package let config: RepositoryConfig
  let master: MasterKey
  let codecs: CodecPool
  let settings: VaultSettings
  let index: Mutex<IndexState>
  let writer: PackWriter
  /// The key this session was opened with; a change of password moves it.
  let openedWith: Mutex<Digest>

  struct IndexState {
    var blobs: BlobIndex
    /// Index files that are in `blobs`.
    var files: Set<Digest> = []
  }

  private init(
    store: any ObjectStore, config: RepositoryConfig, master: MasterKey, key: Digest, settings: VaultSettings
  ) {
    let settings = settings.fitting(store)
    (self.store, self.config, self.master, self.settings) = (store, config, master, settings)
    openedWith = Mutex(key)
    ProcessMemory.prepare()
    codecs = CodecPool(
      key: master, version: config.version, level: settings.compression, randomness: settings.randomness)
    index = Mutex(IndexState(blobs: BlobIndex(seed: settings.randomness.next())))
    writer = PackWriter()
    uploads = Gate(limit: settings.uploads)
    processors = Gate(limit: settings.processors)
    lenders = Gate(limit: settings.processors + 1)
    pages = PagePool(limit: settings.downloads)
  }

  /// The same repository at another place, with nothing known of its index.
  convenience init(_ other: Repository, at store: any ObjectStore) {
    var settings = other.settings
    settings.sources = []
    self.init(store: store, config: other.config, master: other.master, key: other.keyID, settings: settings)
  }

  /// Work for the processor: more threads than processors would only take the caches from each other.
  let processors: Gate
  /// Work for the processor by turns with calls that wait for a disk.
  let lenders: Gate
  /// Packs on their way out.
  let uploads: Gate
  /// Of the lock this session holds, if it began to work before that was certain.
  let confirmation = Confirmation()
  let mending = Mending()
  /// What packs are read into.
  let pages: PagePool
  /// Index files are written one after another: whoever comes later finds the earlier ones durable.
  let indexGate = Gate(limit: 1)
  /// An index whose packs are listed nowhere else, and that may or may not have arrived.
  let unsentIndex = Mutex<SealedFile?>(nil)

  package var keyID: Digest { openedWith.withLock { $0 } }

  // MARK: Creating and opening

  /// Makes an empty place a repository, with one key.
  ///
  /// Safe to repeat after a crash: until the config is written, nothing is there.
  ///
  /// - Parameters:
  ///   - version: 2, or 1 for restic before 0.14, which can't compress.
  ///   - chunkerPolynomial: Random unless given; give another repository's to share its cuts.
  package static func create(
    store: any ObjectStore, password: Secret, version: Int = 2, chunkerPolynomial: UInt64? = nil,
    settings: VaultSettings = VaultSettings()
  ) async throws(VaultError) -> Repository {
    guard version == 1 || version == 2 else { throw .unsupportedVersion(version) }
    let polynomial = chunkerPolynomial ?? IrreduciblePolynomial.random(settings.randomness)
    guard IrreduciblePolynomial.isIrreducible(polynomial) else {
      throw .setting("the chunker's polynomial is reducible")
    }
    guard settings.scrypt.isAffordable else { throw .setting("scrypt's parameters are out of bounds") }
    try await access(store) { store throws(StoreError) in try await store.prepare() }
    guard try await !access(store, { store throws(StoreError) in try await store.contains(.config) }) else {
      throw .repositoryExists(store.location)
    }
    try await removeAbandonedKeys(store)
    let config = RepositoryConfig(
      version: version, id: Digest.of(settings.randomness.bytes(32)), chunkerPolynomial: polynomial)
    let master = MasterKey(from: settings.randomness)
    let key = try await writeKey(master, password: password, store: store, settings: settings)
    let sealed = try Codec(key: master, version: version, level: settings.compression, randomness: settings.randomness)
      .sealPlain(config.json())
    try await access(store) { store throws(StoreError) in try await store.put(.config, sealed) }
    return Repository(store: store, config: config, master: master, key: key, settings: settings)
  }

  /// Opens a repository and loads its indexes.
  ///
  /// - Parameters:
  ///   - keyHint: The key to try first; each costs up to half a second.
  ///   - loadingIndex: `false` leaves the index empty until ``refreshIndex()``, for checks of damaged repositories.
  package static func open(
    store: any ObjectStore, password: Secret, keyHint: Digest? = nil, settings: VaultSettings = VaultSettings(),
    loadingIndex: Bool = true
  ) async throws(VaultError) -> Repository {
    var sealed: [UInt8]?
    do throws(StoreError) { sealed = try await store.get(.config) } catch {
      guard case .notFound = error else { throw VaultError(error) }
      if settings.sources.isEmpty { throw .notARepository(store.location) }
    }
    let (master, key) = try await tryKeys(store, password: password, hint: keyHint, settings: settings)
    // The version isn't known yet; the config is never compressed, so any will do.
    let codec = try Codec(key: master, version: 1, level: settings.compression, randomness: settings.randomness)
    let config: RepositoryConfig
    do throws(VaultError) { config = try RepositoryConfig(sealed: sealed ?? [], codec) } catch {
      guard let good = try await mendConfig(store, master, damaged: sealed, settings) else {
        throw sealed == nil ? .notARepository(store.location) : error
      }
      config = good
    }
    let repository = Repository(
      store: store, config: config, master: master, key: key, settings: settings)
    if loadingIndex { try await repository.refreshIndex() }
    return repository
  }

  /// Keys that a creation left behind before it wrote a config. Refuses where anything says there was a repository.
  private static func removeAbandonedKeys(_ store: any ObjectStore) async throws(VaultError) {
    let keys = try await access(store) { store throws(StoreError) in try await store.list(.key) }
    guard !keys.isEmpty else { return }
    for kind in [ObjectKind.snapshot, .index, .data] {
      guard try await access(store, { store throws(StoreError) in try await store.list(kind) }).isEmpty else {
        throw .configDamaged("it is missing, and \(kind.rawValue) are there")
      }
    }
    for key in keys { try await access(store) { store throws(StoreError) in try await store.delete(key.name) } }
  }

  // MARK: The store

  static func access<T>(
    _ store: any ObjectStore, _ body: (any ObjectStore) async throws(StoreError) -> T
  ) async throws(VaultError) -> T {
    do throws(StoreError) { return try await body(store) } catch { throw VaultError(error) }
  }

  func access<T>(_ body: (any ObjectStore) async throws(StoreError) -> T) async throws(VaultError) -> T {
    try await Self.access(store, body)
  }

  /// Reads and decodes an index, snapshot or lock; compares its name with its content.
  ///
  /// - Parameter damaged: Makes the error for content that isn't what was written.
  func readFile(
    _ kind: ObjectKind, _ id: Digest, damaged: @escaping @Sendable (Digest, String) -> VaultError
  ) async throws(VaultError) -> [UInt8] {
    var bytes = try await access { store throws(StoreError) in try await store.get(ObjectName(kind, id)) }
    var hash = try await digest(of: bytes)
    // Not if it is missing: whoever removed it may be at work this moment.
    if hash != id, let good = try await mend(ObjectName(kind, id)) { (bytes, hash) = (good, id) }
    guard hash == id else { throw damaged(id, "its content has another hash") }
    let content = bytes
    return try await settings.pool.run { [codecs] () throws(VaultError) in
      do throws(CodecFault) {
        return try codecs.with { (codec) throws(CodecFault) in try codec.decodeFile(content) }
      } catch { throw damaged(id, error.reason) }
    }
  }

  private func digest(of bytes: [UInt8]) async throws(VaultError) -> Digest {
    try await settings.pool.run { () throws(VaultError) in bytes.withUnsafeBytes { Digest.of($0) } }
  }

  /// Seals and writes an index, snapshot or lock, and returns its name.
  func writeFile(_ kind: ObjectKind, _ json: [UInt8]) async throws(VaultError) -> Digest {
    let sealed = try await seal(kind, json)
    try await send(kind, sealed)
    return sealed.id
  }

  /// Ready to be sent; sending the same bytes again is harmless, sealing again gives others.
  func seal(_ kind: ObjectKind, _ json: [UInt8]) async throws(VaultError) -> SealedFile {
    let bytes = try await settings.pool.run { [self] () throws(VaultError) in
      try codecs.with { (codec) throws(VaultError) in
        let sealed = try codec.encodeFile(json)
        guard (try? codec.decodeFile(sealed)) == json else { throw .writeVerification(kind.rawValue) }
        return sealed
      }
    }
    return SealedFile(id: bytes.withUnsafeBytes { Digest.of($0) }, bytes: bytes)
  }

  func send(_ kind: ObjectKind, _ sealed: SealedFile) async throws(VaultError) {
    if kind != .lock { try await confirmation.wait() }
    try await access { store throws(StoreError) in try await store.put(ObjectName(kind, sealed.id), sealed.bytes) }
  }
}

/// An encrypted file, and the name it will have.
struct SealedFile: Sendable {
  let id: Digest
  let bytes: [UInt8]
}

extension VaultError {
  /// What a store's failure means for the vault.
  init(_ error: StoreError) {
    switch error {
    case .cancelled: self = .cancelled
    default: self = .store(error)
    }
  }
}
