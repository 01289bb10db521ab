import Core
import DriverKit
import IO
import Web

/// What is said of an object beside its content.
struct ObjectMetadata: Hashable, Sendable, Codable {
  struct Tag: Hashable, Sendable, Codable {
    var key: String
    var value: String
  }

  struct Lock: Hashable, Sendable, Codable {
    /// `GOVERNANCE` or `COMPLIANCE`.
    var mode: String?
    var until: Timestamp?
    var isHeld: Bool?
  }

  /// `content-type` and its like.
  var headers: [String: String] = [:]
  /// Without `x-amz-meta-`.
  var user: [String: String] = [:]
  var tags: [Tag] = []
  var storageClass: String?
  var lock: Lock?

  static let names = [
    "cache-control", "content-disposition", "content-encoding", "content-language", "content-type", "expires",
    "x-amz-website-redirect-location",
  ]

  init() {}

  /// Tags come by a request of their own.
  init(_ response: WebResponse) {
    for name in Self.names { headers[name] = response.headers[name] }
    for (name, value) in response.headers where name.hasPrefix("x-amz-meta-") {
      user[String(name.dropFirst(11))] = value
    }
    storageClass = response.headers["x-amz-storage-class"]
    let found = Lock(
      mode: response.headers["x-amz-object-lock-mode"],
      until: response.headers["x-amz-object-lock-retain-until-date"].flatMap { Timestamp($0) },
      isHeld: response.headers["x-amz-object-lock-legal-hold"].map { $0.uppercased() == "ON" })
    if found.mode != nil || found.isHeld == true { lock = found }
  }

  /// As a request that makes an object says it, storage class and lock aside.
  var requestHeaders: [(name: String, value: String)] {
    headers.map { (name: $0.key, value: $0.value) } + user.map { (name: "x-amz-meta-\($0.key)", value: $0.value) }
  }

  /// What is content; where it lies and how long it must stay are not.
  var digestText: String {
    func text(_ pairs: [String: String]) -> String {
      pairs.sorted { $0.key < $1.key }.map { "\($0.key)=\($0.value)\0" }.joined()
    }
    return text(headers) + "\u{1}" + text(user) + "\u{1}" + tags.map { "\($0.key)=\($0.value)\0" }.joined()
  }
}

/// One line of a capture's manifest.
struct ObjectEntry: Hashable, Sendable, Codable {
  enum Kind: String, Sendable, Codable {
    /// What a key holds at the mark.
    case object
    /// What it held before.
    case version
    /// A delete marker: from here on it held nothing.
    case marker
  }

  var kind: Kind
  /// Below the store's prefix.
  var key: String
  /// Of the content in the tree; empty for markers.
  var path: String
  var size: Int64
  var etag: String
  var modified: Timestamp
  var version: String?
  var sha256: Digest?
  var metadata: ObjectMetadata

  var objectKey: ObjectKey { ObjectKey(key) }

  /// Whether content that was read under `other` is what would be read here.
  func isUnchanged(since other: ObjectEntry) -> Bool {
    size == other.size && etag == other.etag && modified == other.modified && version == other.version
      && Array(key.utf8) == Array(other.key.utf8) && other.sha256 != nil
  }

  /// Names what lies beside for it.
  var stageName: String { Digest.of(Array(key.utf8) + [0] + Array((version ?? "").utf8)).hex }

  /// Of one key what came before comes first; equal keys stand together.
  static func digest(_ entries: [ObjectEntry]) -> ContentDigest {
    var parts: [String: ContentDigest.Part] = [:]
    for (name, kinds) in [("objects", [Kind.object]), ("versions", [.version, .marker])] {
      var digest = RunningDigest()
      var count: Int64 = 0
      for entry in entries where kinds.contains(entry.kind) {
        count += 1
        digest.update(Array(entry.key.utf8) + [0])
        digest.update("\(entry.kind.rawValue) \(entry.size) \(entry.sha256?.hex ?? "-") \(entry.metadata.digestText)\n")
      }
      if name == "objects" || count > 0 { parts[name] = .init(digest: digest.finish().hex, count: count) }
    }
    return ContentDigest(scheme: "bucket-objects-v1", parts: parts)
  }
}

/// Lists of entries, cut into files of bounded size, one JSON document a line.
enum Manifest {
  static let directory: TreePath = "manifest"
  static let linesPerPart = 4096
  static let partLimitBytes = 256 << 20

  static func name(_ part: Int) -> String { String(("000000" + String(part)).suffix(6)) + ".jsonl" }

  static func parts(_ lines: [some Encodable]) throws(DriverError) -> [[UInt8]] {
    var parts: [[UInt8]] = []
    do {
      for start in stride(from: 0, to: lines.count, by: linesPerPart) {
        var text: [UInt8] = []
        for line in lines[start..<min(start + linesPerPart, lines.count)] {
          text += try CanonicalJSON.encode(line)
          text.append(10)
        }
        parts.append(text)
      }
    } catch { throw DriverError(error) }
    return parts.isEmpty ? [[]] : parts
  }

  static func lines<T: Decodable>(_ type: T.Type, in bytes: [UInt8], of what: String) throws(DriverError) -> [T] {
    do { return try bytes.split(separator: 10).map { try CanonicalJSON.decode(type, from: Array($0)) } } catch {
      throw .corrupt("\(what) can't be read: \(error)")
    }
  }

  /// Every entry of a capture, checked: nobody vouches for what a snapshot says.
  static func read(_ tree: any TreeSource) async throws(DriverError) -> [ObjectEntry] {
    var result: [ObjectEntry] = []
    do throws(AnyFailure) {
      for part in try await tree.entries(below: directory).map(\.path).sorted() {
        let bytes = try await tree.contents(of: directory.appending(part), limitBytes: partLimitBytes)
        do throws(DriverError) { result += try lines(ObjectEntry.self, in: bytes, of: "manifest/\(part)") } catch {
          throw AnyFailure(error)
        }
      }
    } catch {
      if let inner = error.underlying as? DriverError { throw inner }
      throw error.isCancellation ? .cancelled : .system(.init(error.report))
    }
    try check(result)
    return result
  }

  private static func check(_ entries: [ObjectEntry]) throws(DriverError) {
    var (objects, versions) = (Set<ObjectKey>(), Set<String>())
    var last: ObjectKey?
    for entry in entries {
      let key = entry.objectKey
      guard ObjectKey(untrusted: key.bytes) != nil, entry.size >= 0 else {
        throw .corrupt("the manifest names what is no object: \(key)")
      }
      if let last, key < last { throw .corrupt("the manifest is out of order at \(key)") }
      last = key
      if entry.kind == .object {
        guard objects.insert(key).inserted else { throw .corrupt("the manifest names \(key) twice") }
      } else {
        guard entry.version != nil, versions.insert(entry.stageName).inserted else {
          throw .corrupt("the manifest names a version of \(key) twice, or without its name")
        }
      }
      guard entry.kind == .marker || entry.sha256 != nil && KeyPaths.isPath(entry.path, of: entry) else {
        throw .corrupt("the manifest says that \(key) is where it can't be: \(entry.path.prefix(200))")
      }
    }
  }
}
