import Core
import IO
import Synchronization
import Vault

/// Keeps a repository's snapshots, indexes and packs of directories on this machine: what every command reads again.
///
/// What lies in the cache is an object as it lies in the store, sealed, and is trusted only if its SHA-256 is its name.
/// A cache that can't be read or written to is as good as none. A listing drops what the store no longer has.
package struct CachedObjectStore: ObjectStore {
  private let base: any ObjectStore
  private let directory: String
  private let pool: BlockingPool
  private let reading = OneAtATime()

  package var location: String { base.location }

  /// - Parameter directory: For all repositories; each has a directory of its own in it, named for its location.
  package init(_ base: any ObjectStore, directory: String, pool: BlockingPool) {
    (self.base, self.pool) = (base, pool)
    self.directory = "\(directory)/\(Digest.of(base.location).hex.prefix(32))"
  }

  package func prepare() async throws(StoreError) { try await base.prepare() }

  package func put(_ name: ObjectName, _ bytes: [UInt8]) async throws(StoreError) {
    try await base.put(name, bytes)
    // A snapshot is read back to see that the store has it: that must not find our own copy.
    if Self.isKept(name.kind), name.kind != .snapshot { await keep(name, bytes) }
  }

  package func get(_ name: ObjectName) async throws(StoreError) -> [UInt8] {
    guard Self.isKept(name.kind) else { return try await base.get(name) }
    if let bytes = await kept(name) { return bytes }
    let bytes = try await base.get(name)
    await keep(name, bytes)
    return bytes
  }

  package func get(_ name: ObjectName, range: Range<Int>) async throws(StoreError) -> [UInt8] {
    try await base.get(name, range: range)
  }

  package func getMetadata(_ name: ObjectName, range: Range<Int>) async throws(StoreError) -> [UInt8] {
    guard name.kind == .data else { return try await base.getMetadata(name, range: range) }
    // Directories lie close together: the first one read brings the whole pack.
    await reading.enter(name)
    defer { reading.leave(name) }
    if let bytes = await kept(name), range.upperBound <= bytes.count { return Array(bytes[range]) }
    guard let size = try await base.size(of: name), size <= Self.packLimitBytes else {
      return try await base.getMetadata(name, range: range)
    }
    let bytes = try await base.get(name)
    await keep(name, bytes)
    guard range.upperBound <= bytes.count else { throw .pastEnd(name, sizeBytes: bytes.count) }
    return Array(bytes[range])
  }

  package func list(_ kind: ObjectKind) async throws(StoreError) -> [ObjectInfo] {
    let listed = try await base.list(kind)
    if Self.isKept(kind) || kind == .data {
      let names = Set(listed.compactMap(\.name.id))
      await pool.run { [directory] () in
        for name in (try? Files.names(in: "\(directory)/\(kind.rawValue)").map(\.lossyText)) ?? [] {
          guard let id = Digest(hex: name), !names.contains(id) else { continue }
          try? Files.removeTree("\(directory)/\(kind.rawValue)/\(name)")
        }
      }
    }
    return listed
  }

  package func size(of name: ObjectName) async throws(StoreError) -> Int? { try await base.size(of: name) }

  package func delete(_ name: ObjectName) async throws(StoreError) {
    await drop(name)
    try await base.delete(name)
  }

  package var listsAtOnce: Bool { get async { await base.listsAtOnce } }

  package var locksObjects: Bool { base.locksObjects }

  package func lock(on name: ObjectName) async throws(StoreError) -> ObjectLock? {
    try await base.lock(on: name)
  }

  package func setLock(_ change: ObjectLockChange, on name: ObjectName) async throws(StoreError) {
    try await base.setLock(change, on: name)
  }

  // MARK: Files

  /// Packs have 16 MiB; larger ones were made by someone who has reasons.
  private static let packLimitBytes = 64 << 20

  private static func isKept(_ kind: ObjectKind) -> Bool { kind == .snapshot || kind == .index }

  private func path(_ name: ObjectName) -> String? { name.id.map { "\(directory)/\(name.kind.rawValue)/\($0.hex)" } }

  private func kept(_ name: ObjectName) async -> [UInt8]? {
    guard let path = path(name) else { return nil }
    return await pool.run { () -> [UInt8]? in
      guard let bytes = try? Files.read(path, limitBytes: name.kind.limitBytes) else { return nil }
      if Digest.of(bytes) == name.id { return bytes }
      try? Files.removeTree(path)
      return nil
    }
  }

  private func keep(_ name: ObjectName, _ bytes: [UInt8]) async {
    guard let path = path(name) else { return }
    await pool.run { () in
      guard Digest.of(bytes) == name.id else { return }
      try? Files.createDirectory(Files.parent(of: path), mode: 0o700)
      try? Files.replace(path, with: bytes)
    }
  }

  private func drop(_ name: ObjectName) async {
    guard let path = path(name) else { return }
    await pool.run { () in try? Files.removeTree(path) }
  }
}

/// One reader of each object at a time; the others find it in the cache.
private final class OneAtATime: Sendable {
  private let waiters = Mutex<[ObjectName: [CheckedContinuation<Void, Never>]]>([:])

  func enter(_ name: ObjectName) async {
    await withCheckedContinuation { continuation in
      let isFirst = waiters.withLock { waiters in
        guard waiters[name] != nil else {
          waiters[name] = []
          return true
        }
        waiters[name]?.append(continuation)
        return false
      }
      if isFirst { continuation.resume() }
    }
  }

  func leave(_ name: ObjectName) {
    let next = waiters.withLock { waiters -> CheckedContinuation<Void, Never>? in
      guard waiters[name]?.isEmpty == false else {
        waiters[name] = nil
        return nil
      }
      return waiters[name]?.removeFirst()
    }
    next?.resume()
  }
}
