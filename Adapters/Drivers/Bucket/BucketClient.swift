import Core
import DriverKit
import IO
import S3Client
import Web

/// One object, or one version of it, as a listing gives it. Keys are whole.
struct Listed: Sendable, Equatable {
  var key: ObjectKey
  var size: Int64
  /// Without its quotes.
  var etag: String
  var modified: Timestamp
  /// `nil` from a listing of current objects.
  var version: String?
  var isMarker = false
  /// Only said of versions.
  var isLatest = false
  var storageClass: String?
}

/// Asks one bucket, again where that may help, and says what went wrong in the driver's words.
struct BucketClient: Sendable {
  let connection: S3Connection
  let time: any Timekeeper
  let pageCount: Int
  /// Told of each request that changes something, before it; a test throws here to stop as a crash would.
  var beforeChange: @Sendable (_ request: String) throws(DriverError) -> Void = { _ throws(DriverError) in }

  private static let tries = 6
  /// Entries of all pages together; nobody has more in one store.
  private static let limitCount = 200_000_000

  var bucket: String { connection.address.bucket }
  var location: String { "\(connection.address.scheme)://\(connection.address.endpoint)/\(bucket)" }

  // MARK: Requests

  /// - Parameter key: Whole; `nil` for the bucket itself.
  func send(
    _ method: WebRequest.Method, _ key: ObjectKey?, query: [(name: String, value: String)] = [],
    headers: [(name: String, value: String)] = [], body: [UInt8]? = nil, limitBytes: Int = 1 << 20
  ) async throws(DriverError) -> WebResponse {
    if method != .get, method != .head { try beforeChange("\(method.rawValue) \(bucket)/\(key?.description ?? "")") }
    var attempt = 0
    while true {
      attempt += 1
      do throws(S3Failure) {
        let response = try await connection.send(
          method, key: key?.text ?? "", query: query, headers: headers, body: body, limitBytes: limitBytes)
        let isBusy = [500, 502, 503, 504, 429].contains(response.status)
        if !isBusy || attempt == Self.tries { return response }
      } catch {
        switch error {
        case .cancelled: throw .cancelled
        case .permission(let text): throw .authenticationFailed(text)
        case .location(let text): throw .unreachable(text)
        case .unavailable(let text): if attempt == Self.tries { throw .unreachable(text) }
        }
      }
      do { try await time.sleep(for: .milliseconds(50 << attempt)) } catch { throw .cancelled }
    }
  }

  func refusal(_ response: WebResponse, _ what: String, needs: String = "") -> DriverError {
    let code = S3Connection.code(response)
    let text = "\(what) at \(location): \(code ?? "status \(response.status)")"
    switch (response.status, code) {
    case (_, "InvalidAccessKeyId"), (_, "SignatureDoesNotMatch"), (_, "ExpiredToken"), (_, "InvalidToken"), (401, _),
      (_, "RequestTimeTooSkewed"):
      return .authenticationFailed(text)
    case (403, "InvalidObjectState"):
      return .unsupported("\(text): it lies in an archive; bring it back there first")
    case (403, _):
      return .permissionDenied(text, needs: needs.isEmpty ? "the policies of docs/drivers/bucket.md" : needs)
    case (404, "NoSuchBucket"): return .unreachable("\(location): there is no such bucket")
    case (300..<400, _), (_, "AuthorizationHeaderMalformed"):
      return .unreachable("\(location), which lies elsewhere: check 'endpoint' and 'region'")
    case (500..., _), (429, _): return .unreachable(text)
    default: return .engineFailed(what + " failed at \(location)", log: code ?? "status \(response.status)")
    }
  }

  private func expect(_ response: WebResponse, _ what: String, needs: String) throws(DriverError) -> WebResponse {
    guard response.isSuccess else { throw refusal(response, what, needs: needs) }
    return response
  }

  private func xml(_ response: WebResponse, _ name: String, _ what: String) throws(DriverError) -> S3XML {
    guard let xml = try? S3XML.parse(response.body), xml.name == name else {
      // A server may find out after it has said 200.
      let code = S3Connection.code(response)
      throw .engineFailed("\(what) at \(location) gave no \(name)", log: code ?? "")
    }
    return xml
  }

  // MARK: The bucket

  func exists() async throws(DriverError) -> Bool {
    let response = try await send(.head, nil)
    switch response.status {
    case 200: return true
    case 404: return false
    default: throw refusal(response, "the bucket was not found", needs: "s3:ListBucket")
    }
  }

  func create(hasLocks: Bool) async throws(DriverError) {
    var body: [UInt8] = []
    if connection.address.region != "us-east-1" {
      body = Array(
        "<CreateBucketConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><LocationConstraint>\(connection.address.region)</LocationConstraint></CreateBucketConfiguration>"
          .utf8)
    }
    let headers = hasLocks ? [(name: "x-amz-bucket-object-lock-enabled", value: "true")] : []
    let made = try await send(.put, nil, headers: headers, body: body)
    guard made.isSuccess || S3Connection.code(made) == "BucketAlreadyOwnedByYou" else {
      throw refusal(made, "the bucket could not be made", needs: "s3:CreateBucket")
    }
  }

  func remove() async throws(DriverError) {
    let gone = try await send(.delete, nil)
    guard gone.isSuccess || gone.status == 404 else {
      throw refusal(gone, "the bucket could not be removed", needs: "s3:DeleteBucket")
    }
  }

  /// Whether every earlier version is kept; `false` also where versioning was switched off again, or is unknown.
  func isVersioned() async throws(DriverError) -> Bool {
    let response = try await send(.get, nil, query: [("versioning", "")])
    switch response.status {
    // Servers name the answer differently.
    case 200: return (try? S3XML.parse(response.body))?["Status"]?.text == "Enabled"
    case 403: throw refusal(response, "versioning was not told", needs: "s3:GetBucketVersioning")
    default: return false
    }
  }

  func enableVersions() async throws(DriverError) {
    let body = Array(
      "<VersioningConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Status>Enabled</Status></VersioningConfiguration>"
        .utf8)
    let done = try await send(.put, nil, query: [("versioning", "")], body: body)
    _ = try expect(done, "versioning was not switched on", needs: "s3:PutBucketVersioning")
  }

  /// Whether objects can be locked, and whether every new one is.
  func locks() async throws(DriverError) -> (isEnabled: Bool, hasDefault: Bool) {
    let response = try await send(.get, nil, query: [("object-lock", "")])
    guard response.status == 200, let xml = try? S3XML.parse(response.body),
      xml["ObjectLockEnabled"]?.text == "Enabled"
    else { return (false, false) }
    return (true, xml["Rule"]?["DefaultRetention"] != nil)
  }

  /// Whether objects may be put there, found without putting one: a part of an upload that was never begun is refused
  /// as that only to whoever may put.
  func mayPut(_ key: ObjectKey) async throws(DriverError) -> Bool {
    let response = try await send(
      .put, key, query: [("partNumber", "1"), ("uploadId", "salvor-none")], body: Array("x".utf8))
    return response.status != 403 && response.status != 401
  }

  // MARK: Lists

  /// Every object whose key begins with `prefix`, in the server's order.
  nonisolated(nonsending) func list(
    _ prefix: String, limit: Int = .max, _ each: (Listed) throws(DriverError) -> Void
  ) async throws(DriverError) {
    var token: String?
    var count = 0
    repeat {
      var query = [
        (name: "list-type", value: "2"), ("prefix", prefix), ("encoding-type", "url"),
        ("max-keys", "\(min(pageCount, limit))"),
      ]
      if let token { query.append(("continuation-token", token)) }
      let response = try await send(.get, nil, query: query, limitBytes: 32 << 20)
      let page = try xml(
        expect(response, "objects were not listed", needs: "s3:ListBucket"), "ListBucketResult", "the list")
      for entry in page.children where entry.name == "Contents" {
        try each(try listed(entry, page, prefix, version: nil))
        count += 1
        guard count <= Self.limitCount else { throw .engineFailed("\(location) lists more than there can be", log: "") }
        if count >= limit { return }
      }
      guard let next = try following(page, ["NextContinuationToken"]) else { return }
      guard next[0] != token else { throw .engineFailed("\(location) gives the same page of a list again", log: "") }
      token = next[0]
    } while true
  }

  /// Every version and delete marker of every key that begins with `prefix`; of one key the newest comes first.
  ///
  /// - Parameters:
  ///   - isKey: The prefix is a key, and others are not wanted; they come behind it.
  nonisolated(nonsending) func listVersions(
    _ prefix: String, isKey: Bool = false, limit: Int = .max, _ each: (Listed) throws(DriverError) -> Void
  ) async throws(DriverError) {
    var markers: [(name: String, value: String)] = []
    var count = 0
    repeat {
      let response = try await send(
        .get, nil,
        query: [
          ("versions", ""), ("prefix", prefix), ("encoding-type", "url"), ("max-keys", "\(min(pageCount, limit))"),
        ]
          + markers,
        limitBytes: 32 << 20)
      let page = try xml(
        expect(response, "versions were not listed", needs: "s3:ListBucketVersions"), "ListVersionsResult",
        "the list of versions")
      for entry in page.children where entry.name == "Version" || entry.name == "DeleteMarker" {
        guard let id = entry["VersionId"]?.text, !id.isEmpty, id.utf8.count <= 1024 else {
          throw .engineFailed("\(location): a version without a name", log: "")
        }
        let found = try listed(entry, page, prefix, version: id)
        if isKey, found.key.bytes.count != prefix.utf8.count { return }
        try each(found)
        count += 1
        guard count <= Self.limitCount else { throw .engineFailed("\(location) lists more than there can be", log: "") }
        if count >= limit { return }
      }
      guard let next = try following(page, ["NextKeyMarker", "NextVersionIdMarker"]) else { return }
      let isEncoded = page["EncodingType"]?.text == "url"
      let key = try isEncoded ? Self.decoded(next[0], location) : next[0]
      let following = [(name: "key-marker", value: key), ("version-id-marker", next[1])].filter { !$0.value.isEmpty }
      guard following.map({ Array($0.value.utf8) }) != markers.map({ Array($0.value.utf8) }) else {
        throw .engineFailed("\(location) gives the same page of a list again", log: "")
      }
      markers = following
    } while true
  }

  private func following(_ page: S3XML, _ names: [String]) throws(DriverError) -> [String]? {
    switch page["IsTruncated"]?.text {
    case "false": return nil
    case "true":
      let found = names.map { page[$0]?.text ?? "" }
      guard found[0] != "" else { throw .engineFailed("\(location): a list that goes on doesn't say where", log: "") }
      return found
    default: throw .engineFailed("\(location): a list doesn't say whether it goes on", log: "")
    }
  }

  private func listed(
    _ entry: S3XML, _ page: S3XML, _ prefix: String, version: String?
  ) throws(DriverError) -> Listed {
    let isMarker = entry.name == "DeleteMarker"
    let written = entry["Key"]?.text ?? ""
    let text = try page["EncodingType"]?.text == "url" ? Self.decoded(written, location) : written
    guard let key = ObjectKey(untrusted: Array(text.utf8)), key.bytes.starts(with: Array(prefix.utf8)),
      let size = isMarker ? 0 : entry["Size"].flatMap({ Int64($0.text) }), size >= 0,
      let modified = entry["LastModified"].flatMap({ Timestamp($0.text) })
    else {
      throw .engineFailed("\(location): an entry of a list has no key, size or time that can be: \(written)", log: "")
    }
    return Listed(
      key: key, size: size, etag: Self.etag(entry["ETag"]?.text), modified: modified, version: version,
      isMarker: isMarker, isLatest: entry["IsLatest"]?.text == "true", storageClass: entry["StorageClass"]?.text)
  }

  static func etag(_ text: String?) -> String { (text ?? "").filter { $0 != "\"" } }

  /// Source: Amazon, "ListObjectsV2", `encoding-type`: percent signs, and `+` for a blank.
  static func decoded(_ text: String, _ location: String) throws(DriverError) -> String {
    var (bytes, rest) = ([UInt8](), Array(text.utf8)[...])
    while let byte = rest.popFirst() {
      switch byte {
      case 43: bytes.append(32)
      case 37:
        guard rest.count >= 2, let value = Hex.decode(String(decoding: rest.prefix(2), as: UTF8.self).lowercased())
        else {
          throw .engineFailed("\(location): a key of a list is written wrongly", log: "")
        }
        bytes += value
        rest = rest.dropFirst(2)
      default: bytes.append(byte)
      }
    }
    guard let result = String(validating: bytes, as: UTF8.self) else {
      throw .engineFailed("\(location): a key of a list is not UTF-8", log: "")
    }
    return result
  }

  // MARK: Objects

  static func version(_ id: String?) -> [(name: String, value: String)] { id.map { [("versionId", $0)] } ?? [] }

  /// - Returns: `nil` if there is no such object, or version.
  func head(_ key: ObjectKey, version: String? = nil) async throws(DriverError) -> WebResponse? {
    let response = try await send(.head, key, query: Self.version(version))
    if response.status == 404 || response.status == 405 { return nil }
    return try expect(response, "\(key) was not looked up", needs: "s3:GetObject")
  }

  /// - Returns: `nil` if there is no such object.
  func get(_ key: ObjectKey, limitBytes: Int) async throws(DriverError) -> [UInt8]? {
    let response = try await send(.get, key, limitBytes: limitBytes)
    if response.status == 404 { return nil }
    return try expect(response, "\(key) was not given", needs: "s3:GetObject").body
  }

  /// - Returns: `nil` if this server knows no tags.
  func tags(_ key: ObjectKey, version: String? = nil) async throws(DriverError) -> [ObjectMetadata.Tag]? {
    let response = try await send(.get, key, query: [("tagging", "")] + Self.version(version))
    switch response.status {
    case 200: break
    case 404: return []
    case 501, 405, 400: return nil
    default:
      throw refusal(response, "the tags of \(key) were not told", needs: "s3:GetObjectTagging, or 'tags: false'")
    }
    // So says Ceph of an object without any.
    if response.body.isEmpty { return [] }
    guard let xml = try? S3XML.parse(response.body), xml.name == "Tagging" else { return nil }
    return (xml["TagSet"]?.children ?? []).compactMap { tag in
      guard tag.name == "Tag", let key = tag["Key"]?.text else { return nil }
      return ObjectMetadata.Tag(key: key, value: tag["Value"]?.text ?? "")
    }.sorted { Array($0.key.utf8).lexicographicallyPrecedes(Array($1.key.utf8)) }
  }

  @discardableResult
  func put(
    _ key: ObjectKey, _ body: [UInt8], headers: [(name: String, value: String)] = []
  ) async throws(DriverError) -> WebResponse {
    try expect(
      try await send(.put, key, headers: headers, body: body), "\(key) was not stored", needs: "s3:PutObject")
  }

  /// To delete what isn't there is a success in S3.
  func delete(_ key: ObjectKey, version: String? = nil) async throws(DriverError) {
    let response = try await send(.delete, key, query: Self.version(version))
    guard response.isSuccess || response.status == 404 else {
      throw refusal(
        response, "\(key) was not deleted", needs: version == nil ? "s3:DeleteObject" : "s3:DeleteObjectVersion")
    }
  }

  /// Locks what is at `key`, and sees that it is: there are servers that say yes and do nothing.
  func lock(_ key: ObjectKey, _ lock: ObjectMetadata.Lock) async throws(DriverError) {
    func set(_ what: String, _ text: String) async throws(DriverError) {
      let body = Array(text.utf8)
      let done = try await send(
        .put, key, query: [(what, "")], headers: [("content-md5", S3Connection.md5(body))], body: body)
      _ = try expect(done, "\(key) was not locked", needs: "s3:PutObjectRetention, s3:PutObjectLegalHold")
    }
    let space = "xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\""
    if let mode = lock.mode, let until = lock.until {
      try await set(
        "retention",
        "<Retention \(space)><Mode>\(Self.escaped(mode))</Mode><RetainUntilDate>\(until)</RetainUntilDate></Retention>")
    }
    if lock.isHeld == true { try await set("legal-hold", "<LegalHold \(space)><Status>ON</Status></LegalHold>") }
    let found = try await head(key).map { ObjectMetadata($0).lock } ?? nil
    guard found?.mode == lock.mode, found?.isHeld == true || lock.isHeld != true else {
      throw .unsupported("\(location) said that \(key) is locked, and it is not; leave 'restoreLocks' out")
    }
  }

  // MARK: In parts

  func beginUpload(_ key: ObjectKey, headers: [(name: String, value: String)]) async throws(DriverError) -> String {
    let begun = try expect(
      try await send(.post, key, query: [("uploads", "")], headers: headers, body: []),
      "the upload of \(key) was not begun", needs: "s3:PutObject")
    guard let id = try xml(begun, "InitiateMultipartUploadResult", "an upload")["UploadId"]?.text, !id.isEmpty else {
      throw .engineFailed("the upload of \(key) has no name", log: "")
    }
    return id
  }

  func putPart(_ key: ObjectKey, _ id: String, _ number: Int, _ body: [UInt8]) async throws(DriverError) -> String {
    let response = try expect(
      try await send(.put, key, query: [("partNumber", "\(number)"), ("uploadId", id)], body: body),
      "part \(number) of \(key) was not stored", needs: "s3:PutObject")
    guard let tag = response.headers["etag"] else { throw .engineFailed("a part of \(key) has no tag", log: "") }
    return tag
  }

  func completeUpload(_ key: ObjectKey, _ id: String, _ tags: [String]) async throws(DriverError) {
    let list = tags.enumerated().map {
      "<Part><PartNumber>\($0.offset + 1)</PartNumber><ETag>\(Self.escaped($0.element))</ETag></Part>"
    }
    let text =
      "<CompleteMultipartUpload xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\(list.joined())</CompleteMultipartUpload>"
    let done = try expect(
      try await send(.post, key, query: [("uploadId", id)], body: Array(text.utf8)),
      "the upload of \(key) was not completed", needs: "s3:PutObject")
    _ = try xml(done, "CompleteMultipartUploadResult", "the end of an upload")
  }

  func abortUpload(_ key: ObjectKey, _ id: String) async {
    _ = try? await send(.delete, key, query: [("uploadId", id)])
  }

  static func escaped(_ text: String) -> String {
    text.replacing("&", with: "&amp;").replacing("<", with: "&lt;").replacing(">", with: "&gt;").replacing(
      "\"", with: "&quot;")
  }

  // MARK: Copies

  /// What a copy is made of, and how.
  struct CopySource: Sendable {
    var bucket: String
    var key: ObjectKey
    var version: String?
    var size: Int64

    var text: String {
      let path = "/\(bucket)/\(S3Signature.encoded(key.text, keepingSlashes: true))"
      return version.map { "\(path)?versionId=\(S3Signature.encoded($0))" } ?? path
    }
  }

  /// Copies inside the server, so that what is at `key` afterwards is whole.
  ///
  /// - Parameters:
  ///   - metadata: What the copy is to say; `nil` for what the source says.
  ///   - more: Storage class and lock.
  ///   - limitBytes: Above this it goes in parts.
  func copy(
    _ source: CopySource, to key: ObjectKey, metadata: ObjectMetadata?, more: [(name: String, value: String)],
    limitBytes: Int64, hasTags: Bool
  ) async throws(DriverError) {
    try await copy(source, to: key, metadata: metadata, more: more, limitBytes: limitBytes)
    // Some servers leave tags out of a copy, others leave those that were there.
    guard hasTags, let found = try await tags(key) else { return }
    let wanted: [ObjectMetadata.Tag]
    if let metadata {
      wanted = metadata.tags
    } else {
      let from = BucketClient(connection: connection.to(bucket: source.bucket), time: time, pageCount: pageCount)
      wanted = try await from.tags(source.key, version: source.version) ?? []
    }
    if wanted != found { try await setTags(key, wanted) }
  }

  private func setTags(_ key: ObjectKey, _ tags: [ObjectMetadata.Tag]) async throws(DriverError) {
    if tags.isEmpty {
      let gone = try await send(.delete, key, query: [("tagging", "")])
      _ = try expect(gone, "the tags of \(key) were not removed", needs: "s3:DeleteObjectTagging")
      return
    }
    let list = tags.map {
      "<Tag><Key>\(Self.escaped($0.key))</Key><Value>\(Self.escaped($0.value))</Value></Tag>"
    }
    let body = Array(
      "<Tagging xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><TagSet>\(list.joined())</TagSet></Tagging>".utf8)
    let done = try await send(
      .put, key, query: [("tagging", "")], headers: [("content-md5", S3Connection.md5(body))], body: body)
    _ = try expect(done, "\(key) was not tagged", needs: "s3:PutObjectTagging")
  }

  private func copy(
    _ source: CopySource, to key: ObjectKey, metadata: ObjectMetadata?, more: [(name: String, value: String)],
    limitBytes: Int64
  ) async throws(DriverError) {
    if source.size > limitBytes {
      return try await copyInParts(source, to: key, metadata: metadata, more: more, limitBytes: limitBytes)
    }
    var headers = [(name: "x-amz-copy-source", value: source.text)] + more
    if let metadata {
      headers += [("x-amz-metadata-directive", "REPLACE"), ("x-amz-tagging-directive", "REPLACE")]
      headers += metadata.requestHeaders + Self.tagging(metadata.tags)
    } else {
      headers += [("x-amz-metadata-directive", "COPY"), ("x-amz-tagging-directive", "COPY")]
    }
    let response = try expect(
      try await send(.put, key, headers: headers), "\(source.key) was not copied to \(key)",
      needs: "s3:GetObject, s3:PutObject and their tagging")
    _ = try xml(response, "CopyObjectResult", "a copy")
  }

  static func tagging(_ tags: [ObjectMetadata.Tag]) -> [(name: String, value: String)] {
    guard !tags.isEmpty else { return [] }
    let text = tags.map { "\(S3Signature.encoded($0.key))=\(S3Signature.encoded($0.value))" }.joined(separator: "&")
    return [("x-amz-tagging", text)]
  }

  private func copyInParts(
    _ source: CopySource, to key: ObjectKey, metadata: ObjectMetadata?, more: [(name: String, value: String)],
    limitBytes: Int64
  ) async throws(DriverError) {
    var metadata = metadata
    if metadata == nil {
      // An upload in parts takes nothing over by itself.
      let from = BucketClient(connection: connection.to(bucket: source.bucket), time: time, pageCount: pageCount)
      guard let head = try await from.head(source.key, version: source.version) else {
        throw .logGap("\(source.key) is gone from \(from.location)")
      }
      metadata = ObjectMetadata(head)
      metadata?.tags = try await from.tags(source.key, version: source.version) ?? []
    }
    let headers = (metadata?.requestHeaders ?? []) + Self.tagging(metadata?.tags ?? []) + more
    let id = try await beginUpload(key, headers: headers)
    do throws(DriverError) {
      let part = max(limitBytes, (source.size + 9999) / 10_000)
      var tags: [String] = []
      for start in stride(from: Int64(0), to: source.size, by: Int64.Stride(part)) {
        let end = min(source.size, start + part)
        let response = try expect(
          try await send(
            .put, key, query: [("partNumber", "\(tags.count + 1)"), ("uploadId", id)],
            headers: [("x-amz-copy-source", source.text), ("x-amz-copy-source-range", "bytes=\(start)-\(end - 1)")]),
          "a part of \(source.key) was not copied to \(key)", needs: "s3:GetObject, s3:PutObject")
        tags.append(try xml(response, "CopyPartResult", "a copy")["ETag"]?.text ?? "")
      }
      try await completeUpload(key, id, tags)
    } catch {
      await abortUpload(key, id)
      throw error
    }
  }
}

/// Runs `body` for every item, so many at a time; the first error ends all.
func sideBySide<T: Sendable>(
  _ items: [T], _ count: Int, _ body: @escaping @Sendable (T) async throws(DriverError) -> Void
) async throws(DriverError) {
  do {
    try await withThrowingTaskGroup(of: Void.self) { group in
      var rest = items.makeIterator()
      for _ in 0..<count { if let item = rest.next() { group.addTask { try await body(item) } } }
      while try await group.next() != nil { if let item = rest.next() { group.addTask { try await body(item) } } }
    }
  } catch { throw DriverError(error) }
}
