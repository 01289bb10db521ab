import Core

/// What an object is; the directory it lies in.
package enum ObjectKind: String, Sendable, CaseIterable {
  case config
  case key = "keys"
  case snapshot = "snapshots"
  case index
  case lock = "locks"
  case data
  /// Salvor's own, beside the repository: restic never looks there.
  case escrow = "salvor/escrow"

  /// Every kind a repository consists of, which every store keeps. Not escrow: a REST server knows restic's kinds alone.
  package static let allCases: [ObjectKind] = [.config, .key, .snapshot, .index, .lock, .data]

  /// No object of this kind is larger; what claims to be is damaged or hostile.
  package var limitBytes: Int {
    switch self {
    case .config, .key, .lock, .escrow: BlobLimits.smallFileBytes
    case .snapshot, .index: BlobLimits.metadataBytes
    case .data: BlobLimits.packBytes
    }
  }
}

/// The name of one object: a kind, and the SHA-256 of its content unless it is the config.
package struct ObjectName: Hashable, Sendable, Comparable, CustomStringConvertible {
  package let kind: ObjectKind
  /// `nil` for the config only.
  package let id: Digest?

  private init(kind: ObjectKind, id: Digest?) { (self.kind, self.id) = (kind, id) }

  package static let config = ObjectName(kind: .config, id: nil)

  /// - Parameter kind: Anything but `.config`, which has no id: there the id is dropped.
  package init(_ kind: ObjectKind, _ id: Digest) { self.init(kind: kind, id: kind == .config ? nil : id) }

  /// The object's place, relative to the store's root: `config`, `index/<64 hex>`, `data/<2 hex>/<64 hex>`.
  package var path: String {
    guard let id else { return kind.rawValue }
    let hex = id.hex
    return kind == .data ? "data/\(hex.prefix(2))/\(hex)" : "\(kind.rawValue)/\(hex)"
  }

  package static func < (a: ObjectName, b: ObjectName) -> Bool { a.path < b.path }

  package var description: String { path }
}

/// An object as a listing shows it.
package struct ObjectInfo: Hashable, Sendable {
  package let name: ObjectName
  package let sizeBytes: Int

  package init(_ name: ObjectName, sizeBytes: Int) { (self.name, self.sizeBytes) = (name, sizeBytes) }
}

/// Where a vault's files lie: a directory, a bucket, a server.
///
/// Objects are written once and never changed. A decorator (retry, limit, fault) is an object store too.
package protocol ObjectStore: Sendable {
  /// For people and logs; without secrets.
  var location: String { get }

  /// Makes an empty place ready for a repository: directories, a bucket's prefix. Fine if it is ready already.
  func prepare() async throws(StoreError)

  /// Stores an object; atomic, and durable when it returns.
  ///
  /// After a failure the object is there as a whole or not at all. Repeating a call with the same content is fine.
  ///
  /// - Throws: `.exists` if the name is taken by other content.
  func put(_ name: ObjectName, _ bytes: [UInt8]) async throws(StoreError)

  /// The same, from memory that the caller keeps; nothing of it is used once this returns.
  func put(_ name: ObjectName, _ pages: PageBuffer) async throws(StoreError)

  /// The whole object.
  func get(_ name: ObjectName) async throws(StoreError) -> [UInt8]

  /// Puts a range of an object into `pages`, which is emptied first and has room for it.
  ///
  /// - Throws: `.pastEnd` if the object is shorter than the range's end.
  func get(_ name: ObjectName, range: Range<Int>, into pages: PageBuffer) async throws(StoreError)

  /// Bytes of an object; an empty range gives none.
  ///
  /// - Throws: `.pastEnd` if the object is shorter than the range's end.
  func get(_ name: ObjectName, range: Range<Int>) async throws(StoreError) -> [UInt8]

  /// The same; what is read holds directories rather than content, which a cache may want to keep.
  func getMetadata(_ name: ObjectName, range: Range<Int>) async throws(StoreError) -> [UInt8]

  /// Every object of a kind, ascending by name; leftovers of interrupted writes and foreign files are left out.
  ///
  /// What was acknowledged before the call is in it: a prune takes for gone what isn't listed.
  func list(_ kind: ObjectKind) async throws(StoreError) -> [ObjectInfo]

  /// - Returns: `nil` if there is no such object.
  func size(of name: ObjectName) async throws(StoreError) -> Int?

  /// Puts verified content in the place of an object that is damaged or missing; durable when it returns.
  ///
  /// In one step where the store can do so. Elsewhere the old one goes first: the caller has the content in a second place.
  func replace(_ name: ObjectName, _ bytes: [UInt8]) async throws(StoreError)

  /// Removes an object; durable when it returns.
  ///
  /// - Throws: `.notFound` if it isn't there; `.locked` if something keeps it.
  func delete(_ name: ObjectName) async throws(StoreError)

  /// Whether a listing has what anybody had put before it began, wherever they are: then of two that put something and list
  /// afterwards, one at least sees the other.
  var listsAtOnce: Bool { get async }

  /// Whether what is put is locked, so that a delete may be refused for a time.
  var locksObjects: Bool { get }

  /// What keeps an object from being deleted now.
  ///
  /// - Returns: `nil` if nothing does.
  func lock(on name: ObjectName) async throws(StoreError) -> ObjectLock?

  /// Changes what keeps an object; it is so when this returns.
  ///
  /// - Throws: `.location` where objects can't be locked.
  func setLock(_ change: ObjectLockChange, on name: ObjectName) async throws(StoreError)
}

extension ObjectStore {
  package func put(_ name: ObjectName, _ pages: PageBuffer) async throws(StoreError) {
    try await put(name, Array(pages.bytes))
  }

  package func get(_ name: ObjectName, range: Range<Int>, into pages: PageBuffer) async throws(StoreError) {
    pages.clear()
    let bytes = try await get(name, range: range)
    guard bytes.count <= pages.capacity else { throw .corrupt(name, "more came than was asked for") }
    pages.append(bytes)
  }

  package func getMetadata(_ name: ObjectName, range: Range<Int>) async throws(StoreError) -> [UInt8] {
    try await get(name, range: range)
  }

  package func replace(_ name: ObjectName, _ bytes: [UInt8]) async throws(StoreError) {
    do throws(StoreError) { try await delete(name) } catch {
      guard case .notFound = error else { throw error }
    }
    try await put(name, bytes)
  }

  package var listsAtOnce: Bool { false }

  package var locksObjects: Bool { false }

  package func lock(on name: ObjectName) async throws(StoreError) -> ObjectLock? { nil }

  package func setLock(_ change: ObjectLockChange, on name: ObjectName) async throws(StoreError) {
    throw .location("\(location) can't lock objects")
  }

  package func contains(_ name: ObjectName) async throws(StoreError) -> Bool { try await size(of: name) != nil }
}

/// Opens one kind of object store; what the registry lists.
package protocol ObjectStoreFactory: Sendable {
  /// What stands before the colon in a location, such as `local` or `s3`.
  static var scheme: String { get }

  /// Whether it is reached over a network, so that trying again, limits and a cache make sense.
  static var isRemote: Bool { get }

  /// - Parameter location: Without scheme and colon.
  /// - Throws: `.location` if the text can't be understood. Whether anything is there shows at the first use.
  func open(_ location: String) throws(StoreError) -> any ObjectStore
}

extension ObjectStoreFactory {
  package static var isRemote: Bool { true }
}
