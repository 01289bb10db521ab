import Core
import Foundation
import IO
import S3Client
import Synchronization
import Vault
import Web

/// Objects in a bucket, laid out as restic does.
///
/// Every body is sent with its SHA-256, which the server checks. Objects are made on the condition that there is none of
/// that name, where the server knows that; elsewhere two who make a config at the same time may both believe they won.
/// Large objects go in parts; what a crash leaves of them is seen by nobody, and removed by a lifecycle rule of the
/// bucket.
///
/// Source: Amazon, "S3 API Reference".
package final class S3ObjectStore: ObjectStore {
  let address: S3Address
  let settings: S3Settings
  private let connection: S3Connection
  let time: any Timekeeper
  /// Cleared when the server says that it doesn't know conditions.
  private let asksConditionally = Mutex(true)
  /// The first version of each object that is read, as far as it is known.
  let known = Mutex<[ObjectName: S3Version]>([:])

  package var location: String { address.description }

  init(
    _ address: S3Address, _ settings: S3Settings, client: WebClient, credentials: S3Credentials, time: any Timekeeper
  ) {
    (self.address, self.settings, self.time) = (address, settings, time)
    connection = S3Connection(
      address, client: client, credentials: credentials, time: time, timeLimit: settings.timeLimit,
      stallLimit: settings.stallLimit)
  }

  package func prepare() async throws(StoreError) {
    let there = try await send(.head, key: "")
    switch there.status {
    // Whoever may only write to a bucket may not ask about it.
    case 200, 403: return try await expectLocks()
    case 404: break
    default: throw refusal(there, "the bucket was not found")
    }
    var body: [UInt8] = []
    if address.region != "us-east-1" {
      body = Array(
        "<CreateBucketConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><LocationConstraint>\(address.region)</LocationConstraint></CreateBucketConfiguration>"
          .utf8)
    }
    // Versions come with it.
    let headers = locksObjects ? [(name: "x-amz-bucket-object-lock-enabled", value: "true")] : []
    let made = try await send(.put, key: "", headers: headers, body: body)
    guard made.isSuccess || Self.code(made) == "BucketAlreadyOwnedByYou" else {
      throw refusal(made, "the bucket could not be made")
    }
    try await expectLocks()
  }

  package func put(_ name: ObjectName, _ bytes: [UInt8]) async throws(StoreError) {
    // A server that ignores the condition would replace it, and one with versions add to it.
    if name == .config || settings.trustsFirstVersions, try await isThere(name, bytes) { return }
    var headers: [(name: String, value: String)] = [("content-type", "application/octet-stream")]
    if let storageClass = settings.storageClasses[name.kind] { headers.append(("x-amz-storage-class", storageClass)) }
    headers += lockHeaders(name)
    if bytes.count > settings.partThresholdBytes {
      try await putInParts(name, bytes, headers)
    } else {
      try await putWhole(name, bytes, headers)
    }
    // Of two who were the first at the same moment, one was.
    if name == .config, settings.trustsFirstVersions, try await !isThere(name, bytes) { throw .notFound(name) }
  }

  private func putWhole(
    _ name: ObjectName, _ bytes: [UInt8], _ headers: [(name: String, value: String)]
  ) async throws(StoreError) {
    let isConditional = asksConditionally.withLock { $0 }
    var headers = headers
    if isConditional { headers.append(("if-none-match", "*")) }
    // Wanted by Amazon where an object is locked.
    if isLocked(name) { headers.append(("content-md5", Self.md5(bytes))) }
    let response = try await send(
      .put, key: key(name), headers: headers, body: bytes,
      // Taken from the name, not from the bytes: the server finds what memory damaged in between.
      payloadHash: name.id?.hex)
    switch response.status {
    case 200..<300: return
    case 412:
      if try await isThere(name, bytes) { return }
      throw refusal(response, "\(name) was there and is no longer")
    case 501 where isConditional, 400 where isConditional && Self.code(response) == "NotImplemented":
      asksConditionally.withLock { $0 = false }
      try await putWhole(name, bytes, headers.filter { $0.name != "if-none-match" && $0.name != "content-md5" })
    case 400 where isLocked(name) && ["InvalidArgument", "InvalidRequest"].contains(Self.code(response)):
      throw Self.noLocks(location)
    default: throw refusal(response, "\(name) was not stored", about: name)
    }
  }

  package func get(_ name: ObjectName) async throws(StoreError) -> [UInt8] {
    let version = try await trusted(name)
    let response = try await send(.get, key: key(name), query: version, limitBytes: name.kind.limitBytes)
    guard response.status == 200 else { throw refusal(response, "\(name) was not given", about: name) }
    return response.body
  }

  package func get(_ name: ObjectName, range: Range<Int>) async throws(StoreError) -> [UInt8] {
    guard !range.isEmpty else { return [] }
    let version = try await trusted(name)
    let response = try await send(
      .get, key: key(name), query: version, headers: [("range", "bytes=\(range.lowerBound)-\(range.upperBound - 1)")],
      limitBytes: range.count)
    switch RangeAnswer(response, asked: range) {
    case .bytes(let bytes): return bytes
    case .pastEnd(let size): throw .pastEnd(name, sizeBytes: size)
    case .unsatisfiable:
      guard let size = try await size(of: name) else { throw .notFound(name) }
      throw .pastEnd(name, sizeBytes: size)
    case .unnamed:
      // What lies past the end, some servers answer with nothing at all.
      if let size = try await size(of: name), size < range.upperBound { throw .pastEnd(name, sizeBytes: size) }
      throw .unavailable("\(location) gave a part of \(name) without saying which")
    case .otherBytes: throw .unavailable("\(location) gave other bytes of \(name) than were asked for")
    case .ignored:
      throw .unavailable("\(location) can't give parts of an object: its server, or a proxy, ignores Range")
    case .failed: throw refusal(response, "\(name) was not given", about: name)
    }
  }

  package func list(_ kind: ObjectKind) async throws(StoreError) -> [ObjectInfo] {
    if kind == .config { return try await size(of: .config).map { [ObjectInfo(.config, sizeBytes: $0)] } ?? [] }
    let prefix = "\(address.prefix)\(kind.rawValue)/"
    if settings.trustsFirstVersions {
      return try ObjectListing.checked(
        try await firstVersions(kind).map { ObjectInfo($0.key, sizeBytes: $0.value.sizeBytes) })
    }
    var (result, token, pages): ([ObjectInfo], String?, Int) = ([], nil, 0)
    repeat {
      pages += 1
      guard pages <= ObjectListing.limitCount / max(1, settings.pageCount) + 1000,
        result.count <= ObjectListing.limitCount
      else { throw .unavailable("\(location) lists more \(kind.rawValue) than there can be") }
      var query = [
        (name: "list-type", value: "2"), ("prefix", prefix), ("encoding-type", "url"),
        ("max-keys", "\(settings.pageCount)"),
      ]
      if let token { query.append(("continuation-token", token)) }
      let response = try await send(.get, key: "", query: query, limitBytes: 16 << 20)
      guard response.status == 200 else { throw refusal(response, "\(kind.rawValue) was not listed") }
      let page = try page(response.body, kind, prefix)
      result += page.objects
      if let next = page.next, next == token { throw .unavailable("\(location) gives the same page of a list again") }
      token = page.next
    } while token != nil
    return try ObjectListing.checked(result)
  }

  package func size(of name: ObjectName) async throws(StoreError) -> Int? {
    if settings.trustsFirstVersions { return try await versions(of: name).last { !$0.isMarker }?.sizeBytes }
    let response = try await send(.head, key: key(name))
    switch response.status {
    case 200:
      guard let size = response.headers["content-length"].flatMap({ Int($0) }), size >= 0 else {
        throw .unavailable("\(location) doesn't say how large \(name) is")
      }
      return size
    case 404: return nil
    default: throw refusal(response, "\(name) was not looked up")
    }
  }

  package func delete(_ name: ObjectName) async throws(StoreError) {
    if settings.trustsFirstVersions { return try await deleteVersions(of: name) }
    // To delete what isn't there is a success in S3.
    guard try await contains(name) else { throw .notFound(name) }
    let response = try await send(.delete, key: key(name))
    guard response.isSuccess else { throw refusal(response, "\(name) was not deleted", about: name) }
  }

  // MARK: Parts

  private func putInParts(
    _ name: ObjectName, _ bytes: [UInt8], _ headers: [(name: String, value: String)]
  ) async throws(StoreError) {
    // Not every server takes a condition at the end of an upload.
    if name != .config, !settings.trustsFirstVersions, try await isThere(name, bytes) { return }
    let begun = try await send(.post, key: key(name), query: [("uploads", "")], headers: headers, body: [])
    guard begun.isSuccess, let id = (try? S3XML.parse(begun.body))?["UploadId"]?.text, !id.isEmpty else {
      throw refusal(begun, "the upload of \(name) was not begun", about: name)
    }
    do throws(StoreError) {
      let tags = try await sendParts(name, bytes, id)
      let list = tags.enumerated().map {
        "<Part><PartNumber>\($0.offset + 1)</PartNumber><ETag>\(Self.escaped($0.element))</ETag></Part>"
      }
      let text =
        "<CompleteMultipartUpload xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\(list.joined())</CompleteMultipartUpload>"
      let done = try await send(.post, key: key(name), query: [("uploadId", id)], body: Array(text.utf8))
      // A server may find out after it has said 200.
      guard done.isSuccess, (try? S3XML.parse(done.body))?.name == "CompleteMultipartUploadResult" else {
        throw refusal(done, "the upload of \(name) was not completed", about: name)
      }
      // Some servers forget by now what was asked for at the beginning.
      if isLocked(name), let until = lockUntil() { try await setLock(.extend(until: until), on: name) }
    } catch {
      _ = try? await send(.delete, key: key(name), query: [("uploadId", id)])
      throw error
    }
  }

  /// - Returns: Each part's tag, in order.
  private func sendParts(_ name: ObjectName, _ bytes: [UInt8], _ id: String) async throws(StoreError) -> [String] {
    let size = max(settings.partBytes, (bytes.count + 9999) / 10_000)
    let count = (bytes.count + size - 1) / size
    let result: Result<[String], StoreError> = await withTaskGroup(of: Result<(Int, String), StoreError>.self) {
      group in
      var (next, tags, failure) = (0, [String](repeating: "", count: count), StoreError?.none)
      func add() {
        guard next < count, failure == nil else { return }
        let number = next
        next += 1
        group.addTask { [self] in
          do throws(StoreError) {
            let part = Array(bytes[number * size..<min(bytes.count, (number + 1) * size)])
            let response = try await send(
              .put, key: key(name), query: [("partNumber", "\(number + 1)"), ("uploadId", id)], body: part)
            guard response.isSuccess, let tag = response.headers["etag"] else {
              throw refusal(response, "part \(number + 1) of \(name) was not stored", about: name)
            }
            return .success((number, tag))
          } catch { return .failure(error) }
        }
      }
      for _ in 0..<4 { add() }
      while let one = await group.next() {
        switch one {
        case .success(let (number, tag)): tags[number] = tag
        case .failure(let error):
          failure = failure ?? error
          group.cancelAll()
        }
        add()
      }
      return failure.map { .failure($0) } ?? .success(tags)
    }
    return try result.get()
  }

  private static func escaped(_ text: String) -> String {
    text.replacing("&", with: "&amp;").replacing("<", with: "&lt;").replacing(">", with: "&gt;").replacing(
      "\"", with: "&quot;")
  }

  // MARK: Lists

  func page(
    _ body: [UInt8], _ kind: ObjectKind, _ prefix: String
  ) throws(StoreError) -> (objects: [ObjectInfo], next: String?) {
    let xml: S3XML
    do throws(S3XML.Fault) { xml = try S3XML.parse(body) } catch {
      throw .unavailable(
        "\(location): the list of \(kind.rawValue) can't be read at byte \(error.offset): \(error.reason)")
    }
    guard xml.name == "ListBucketResult", let isTruncated = xml["IsTruncated"]?.text,
      ["true", "false"].contains(isTruncated)
    else { throw .unavailable("\(location): the answer is no list") }
    let isEncoded = xml["EncodingType"]?.text == "url"
    var objects: [ObjectInfo] = []
    for entry in xml.children where entry.name == "Contents" {
      guard let written = entry["Key"]?.text, let size = entry["Size"].flatMap({ Int($0.text) }), size >= 0 else {
        throw .unavailable("\(location): an entry of the list has no name or no size")
      }
      let key = isEncoded ? written.replacing("+", with: " ").removingPercentEncoding ?? written : written
      // What isn't an object's name is somebody else's.
      guard key.hasPrefix(prefix), let id = Digest(hex: key.suffix(64)) else { continue }
      let name = ObjectName(kind, id)
      if key == "\(address.prefix)\(name.path)" { objects.append(ObjectInfo(name, sizeBytes: size)) }
    }
    guard isTruncated == "true" else { return (objects, nil) }
    guard let next = xml["NextContinuationToken"]?.text, !next.isEmpty else {
      throw .unavailable("\(location): a list that goes on doesn't say where")
    }
    return (objects, next)
  }

  // MARK: Requests

  func key(_ name: ObjectName) -> String { address.prefix + name.path }

  /// - Throws: `.exists` if the name has other content.
  func isThere(_ name: ObjectName, _ bytes: [UInt8]) async throws(StoreError) -> Bool {
    guard let size = try await size(of: name) else { return false }
    guard size == bytes.count, try await get(name) == bytes else { throw .exists(name) }
    return true
  }

  func send(
    _ method: WebRequest.Method, key: String, query: [(name: String, value: String)] = [],
    headers: [(name: String, value: String)] = [], body: [UInt8]? = nil, payloadHash: String? = nil,
    limitBytes: Int = 1 << 20
  ) async throws(StoreError) -> WebResponse {
    do throws(S3Failure) {
      return try await connection.send(
        method, key: key, query: query, headers: headers, body: body, payloadHash: payloadHash, limitBytes: limitBytes)
    } catch { throw StoreError(error) }
  }

  static func code(_ response: WebResponse) -> String? { S3Connection.code(response) }

  func refusal(_ response: WebResponse, _ what: String, about name: ObjectName? = nil) -> StoreError {
    let code = Self.code(response)
    let text = "\(location): \(what): \(code ?? "status \(response.status)")"
    switch (response.status, code) {
    case (404, "NoSuchBucket"): return .location("\(location): there is no such bucket")
    case (404, _): return name.map { .notFound($0) } ?? .location(text)
    case (_, "RequestTimeTooSkewed"): return .permission("\(text): this machine's clock is wrong")
    case (300..<400, _), (_, "AuthorizationHeaderMalformed"):
      let region = response.headers["x-amz-bucket-region"] ?? (try? S3XML.parse(response.body))?["Region"]?.text
      let hint = region.map { $0.utf8.allSatisfy { $0 > 32 && $0 < 127 } ? "set AWS_REGION to \($0.prefix(40))" : "" }
      return .location("\(location) lies elsewhere: \(hint ?? "check endpoint and region")")
    case (_, "XAmzContentSHA256Mismatch"), (_, "BadDigest"):
      return name.map { .corrupt($0, "what arrived has another hash than what was sent") } ?? .unavailable(text)
    case (507, _), (_, "QuotaExceeded"), (_, "XMinioStorageFull"): return .full(text)
    case (403, "InvalidObjectState"):
      return .permission("\(text): it lies in an archive and must be restored there before it can be read")
    case (401, _), (403, _): return .permission(text)
    default: return .unavailable(text)
    }
  }
}

/// Opens `s3:https://host:port/bucket/prefix` and `s3:bucket/prefix`.
package struct S3ObjectStoreFactory: ObjectStoreFactory {
  package static let scheme = "s3"
  private let environment: [String: String]
  private let time: any Timekeeper
  private let pool: BlockingPool
  private let settings: S3Settings

  package init(
    environment: [String: String], time: any Timekeeper, pool: BlockingPool, settings: S3Settings = S3Settings()
  ) {
    (self.environment, self.time, self.pool, self.settings) = (environment, time, pool, settings)
  }

  package func open(_ location: String) throws(StoreError) -> any ObjectStore {
    let address: S3Address
    do throws(S3Failure) { address = try S3Address(location, environment: environment) } catch {
      throw StoreError(error)
    }
    var settings = settings
    if let classes = environment["SALVOR_S3_STORAGE_CLASS"], !classes.isEmpty {
      settings.storageClasses = try S3Settings.storageClasses(classes)
    }
    try settings.readLocks(environment)
    do throws(WebFailure) {
      let client = try WebClient(WebTrust(environment))
      // The services that give credentials are others than the bucket's.
      let credentials = S3Credentials(
        environment: environment, region: address.region, client: try WebClient(), time: time, pool: pool)
      return S3ObjectStore(address, settings, client: client, credentials: credentials, time: time)
    } catch { throw .location("\(error)") }
  }
}

extension StoreError {
  init(_ failure: S3Failure) {
    self =
      switch failure {
      case .location(let text): .location(text)
      case .permission(let text): .permission(text)
      case .unavailable(let text): .unavailable(text)
      case .cancelled: .cancelled
      }
  }
}
