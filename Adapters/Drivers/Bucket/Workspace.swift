import Core
import DriverKit
import IO
import S3Client

/// What one restore has in the workspace: objects below a prefix of its own.
///
///     state.json         how far it got; whoever replaces it takes a step
///     manifest/000000    what was captured
///     beside/<name>      its objects and versions, named by key and version
///     plan/000000        what the live state was when the swap began, and what becomes of each key
///     kept/<name>        what a swap replaces, where the bucket itself keeps no versions
///     after/000000       what the live state was when the swap had ended
///     late/<name>        what was written between a swap and the way back; late-names/000000 names it
struct Workspace: Sendable {
  enum Phase: String, Sendable, Codable {
    /// Restored and proved; the live state is what it was.
    case beside
    /// The plan is whole and what it replaces is kept; the live state is one or the other, key by key.
    case swappingIn
    case swapped
    case swappingOut
  }

  struct State: Sendable, Codable {
    var phase: Phase
    var restored: RestoredState
    var digest: ContentDigest
    var manifestParts: Int
    var planParts = 0
    var afterParts = 0
    /// When the plan was made.
    var isVersioned = false
    /// There was no bucket.
    var hasMadeBucket = false
    /// As captured.
    var wasVersioned: Bool
    var hadLocks: Bool
    /// The live place, so that a catalog that was changed since is found out.
    var bucket: String
    var prefix: String
  }

  enum Action: String, Sendable, Codable {
    /// Is what was captured already.
    case same
    case replace
    /// Nothing was there.
    case create
    case delete
  }

  /// What becomes of one key.
  struct Planned: Sendable, Codable {
    var key: String
    var action: Action
    var size: Int64 = 0
    var etag: String = ""
    var modified: Timestamp?
    var version: String?
    var storageClass: String?
    /// Not even an earlier version or a delete marker of it was there.
    var isNew = false

    var objectKey: ObjectKey { ObjectKey(key) }
  }

  let client: BucketClient
  let prefix: String

  func key(_ name: String) -> ObjectKey { ObjectKey(prefix + name) }
  func beside(_ name: String) -> ObjectKey { key("beside/\(name)") }
  func kept(_ own: ObjectKey) -> ObjectKey { key("kept/\(own.hash)") }
  func late(_ own: ObjectKey) -> ObjectKey { key("late/\(own.hash)") }

  // MARK: State

  func state() async throws(DriverError) -> State? {
    guard let bytes = try await getIfThere(key("state.json"), limitBytes: 1 << 20) else { return nil }
    do { return try CanonicalJSON.decode(State.self, from: bytes) } catch {
      throw .corrupt("\(key("state.json")) at \(client.location) can't be read: \(error)")
    }
  }

  func write(_ state: State) async throws(DriverError) {
    let bytes: [UInt8]
    do { bytes = try CanonicalJSON.encode(state) } catch { throw DriverError(error) }
    try await client.put(key("state.json"), bytes, headers: [("content-type", "application/json")])
  }

  private func getIfThere(_ key: ObjectKey, limitBytes: Int) async throws(DriverError) -> [UInt8]? {
    do throws(DriverError) { return try await client.get(key, limitBytes: limitBytes) } catch {
      // No bucket, no workspace.
      if case .unreachable = error, try await !client.exists() { return nil }
      throw error
    }
  }

  // MARK: Lists

  /// - Returns: How many parts it has.
  func write(_ lines: [some Encodable], as name: String) async throws(DriverError) -> Int {
    let parts = try Manifest.parts(lines)
    for (number, bytes) in parts.enumerated() { try await client.put(key("\(name)/\(Manifest.name(number))"), bytes) }
    return parts.count
  }

  func read<T: Decodable>(_ type: T.Type, _ name: String, parts: Int) async throws(DriverError) -> [T] {
    var result: [T] = []
    for number in 0..<max(0, parts) {
      let part = key("\(name)/\(Manifest.name(number))")
      guard let bytes = try await client.get(part, limitBytes: Manifest.partLimitBytes) else {
        throw .corrupt("\(part) is gone from \(client.location)")
      }
      result += try Manifest.lines(type, in: bytes, of: part.description)
    }
    return result
  }

  /// Names of what is below one of the directories, with sizes.
  func names(_ directory: String) async throws(DriverError) -> [String: Int64] {
    var result: [String: Int64] = [:]
    let start = prefix + directory + "/"
    try await client.list(start) { listed throws(DriverError) in
      if let name = listed.key.dropping(start) { result[name.text] = listed.size }
    }
    return result
  }

  /// Removes all that is below `directory`, or everything; every version of it, where there are some.
  ///
  /// - Returns: What can't be removed, and why.
  func clear(_ directory: String?, parallel: Int) async throws(DriverError) -> [String] {
    let start = directory.map { prefix + $0 + "/" } ?? prefix
    guard try await client.exists() else { return [] }
    let isVersioned = try await client.isVersioned()
    // Half a restore must never be taken for a whole one: without its state it is none. Where versions are kept this puts a
    // marker over it, which is the last to go.
    if directory == nil, try await state() != nil { try await client.delete(key("state.json")) }
    var (found, last) = ([Listed](), [Listed]())
    let stateKey = key("state.json")
    if isVersioned {
      try await client.listVersions(start) { listed throws(DriverError) in
        if listed.key == stateKey, listed.isMarker { last.append(listed) } else { found.append(listed) }
      }
    } else {
      try await client.list(start) { listed throws(DriverError) in found.append(listed) }
    }
    let left = Refusals()
    for group in [found, last] {
      try await sideBySide(group, parallel) { listed throws(DriverError) in
        do throws(DriverError) { try await client.delete(listed.key, version: listed.version) } catch {
          guard case .permissionDenied = error else { throw error }
          await left.add("\(listed.key)")
        }
      }
    }
    return await left.names
  }

  actor Refusals {
    var names: [String] = []
    func add(_ name: String) { names.append(name) }
  }
}
