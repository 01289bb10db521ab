import Core
import S3Client
import Vault
import Web

/// A version of an object, or a mark that hides those before it.
struct S3Version: Sendable, Equatable {
  var id: String
  var sizeBytes: Int
  var isMarker: Bool
}

/// Where objects are locked, what was first under a name is what counts: whoever gets hold of the keys can put versions
/// and marks over it, but can't take it away.
///
/// Source: Amazon, "ListObjectVersions", "DeleteObject".
extension S3ObjectStore {
  /// Whoever can write can heap up versions; nobody needs so many.
  private static let versionsLimit = 100_000
  private static let knownLimit = 200_000

  /// - Returns: The parameters of a request that reads the version to be trusted.
  func trusted(_ name: ObjectName) async throws(StoreError) -> [(name: String, value: String)] {
    guard settings.trustsFirstVersions else { return [] }
    if let version = known.withLock({ $0[name] }) { return [("versionId", version.id)] }
    guard let version = try await versions(of: name).last(where: { !$0.isMarker }) else { throw .notFound(name) }
    remember([name: version])
    return [("versionId", version.id)]
  }

  private func remember(_ versions: [ObjectName: S3Version]) {
    known.withLock { known in
      if known.count + versions.count > Self.knownLimit { known = [:] }
      if versions.count <= Self.knownLimit { known.merge(versions) { $1 } }
    }
  }

  /// Every version and mark of an object, the newest first.
  func versions(of name: ObjectName) async throws(StoreError) -> [S3Version] {
    let key = key(name)
    var result: [S3Version] = []
    try await eachVersion(prefix: key, limit: Self.versionsLimit) { found, version throws(StoreError) in
      if found == key { result.append(version) }
    }
    return result
  }

  /// Of every object of a kind, the version to be trusted.
  func firstVersions(_ kind: ObjectKind) async throws(StoreError) -> [ObjectName: S3Version] {
    let prefix = "\(address.prefix)\(kind.rawValue)/"
    var result: [ObjectName: S3Version] = [:]
    try await eachVersion(prefix: prefix, limit: ObjectListing.limitCount) { key, version throws(StoreError) in
      guard !version.isMarker, let id = Digest(hex: key.suffix(64)) else { return }
      let name = ObjectName(kind, id)
      // Later ones of the list are older ones.
      if key == self.key(name) { result[name] = version }
    }
    known.withLock { $0 = $0.filter { $0.key.kind != kind } }
    remember(result)
    return result
  }

  private func eachVersion(
    prefix: String, limit: Int, _ body: (String, S3Version) throws(StoreError) -> Void
  ) async throws(StoreError) {
    var (count, next) = (0, [(name: String, value: String)]())
    repeat {
      let response = try await send(
        .get, key: "",
        query: [("versions", ""), ("prefix", prefix), ("encoding-type", "url"), ("max-keys", "\(settings.pageCount)")]
          + next, limitBytes: 16 << 20)
      guard response.status == 200 else { throw refusal(response, "versions were not listed") }
      let page: S3XML
      do throws(S3XML.Fault) { page = try S3XML.parse(response.body) } catch {
        throw .unavailable("\(location): the list of versions can't be read at byte \(error.offset): \(error.reason)")
      }
      guard page.name == "ListVersionsResult", let isTruncated = page["IsTruncated"]?.text,
        ["true", "false"].contains(isTruncated)
      else { throw .unavailable("\(location): the answer is no list of versions") }
      let isEncoded = page["EncodingType"]?.text == "url"
      func plain(_ text: String) -> String {
        isEncoded ? text.replacing("+", with: " ").removingPercentEncoding ?? text : text
      }
      for entry in page.children where entry.name == "Version" || entry.name == "DeleteMarker" {
        let isMarker = entry.name == "DeleteMarker"
        guard let key = entry["Key"]?.text, let id = entry["VersionId"]?.text, !id.isEmpty, id.utf8.count <= 1024,
          let size = isMarker ? 0 : entry["Size"].flatMap({ Int($0.text) }), size >= 0
        else { throw .unavailable("\(location): an entry of the list of versions has no name, version or size") }
        count += 1
        guard count <= limit else { throw .unavailable("\(location) has more versions of \(prefix) than can be read") }
        try body(plain(key), S3Version(id: id, sizeBytes: size, isMarker: isMarker))
      }
      guard isTruncated == "true" else { return }
      guard let key = page["NextKeyMarker"]?.text, !key.isEmpty else {
        throw .unavailable("\(location): a list of versions that goes on doesn't say where")
      }
      let markers = [
        (name: "key-marker", value: plain(key)), ("version-id-marker", page["NextVersionIdMarker"]?.text ?? ""),
      ].filter { !$0.value.isEmpty }
      guard markers.map(\.value) != next.map(\.value) else {
        throw .unavailable("\(location) gives the same page of a list again")
      }
      next = markers
    } while true
  }

  /// Removes an object with all its versions; the one that is trusted last, so that no other takes its place.
  func deleteVersions(of name: ObjectName) async throws(StoreError) {
    let all = try await versions(of: name)
    guard all.contains(where: { !$0.isMarker }) else { throw .notFound(name) }
    if let lock = try await lock(on: name), lock.holds(at: time.now()) { throw .locked(name, lock) }
    for version in all {
      let response = try await send(.delete, key: key(name), query: [("versionId", version.id)])
      guard response.isSuccess || response.status == 404 else {
        if response.status == 403, let lock = try await lock(on: name, version: version.id), lock.holds(at: time.now())
        {
          throw .locked(name, lock)
        }
        throw refusal(response, "\(name) was not deleted", about: name)
      }
    }
    known.withLock { $0[name] = nil }
  }
}
