import Core
import Foundation
import Hummingbird
import IO
import NIOCore
import ObjectStoreLocal
import Vault

/// Answers restic's REST protocol, versions 1 and 2, from directories laid out as restic's own.
///
/// An object is kept only if it came whole and its SHA-256 is its name; then it is durable before the answer.
///
/// Source: restic, "REST Backend"; RFC 9110 for ranges.
struct RepositoryResponder: HTTPResponder {
  typealias Context = BasicRequestContext

  let settings: ServerSettings
  let users: Users?
  let quota: Quota
  let counters: ServerCounters
  let pool: BlockingPool
  let log: @Sendable (String) -> Void

  func respond(to request: Request, context: Context) async throws -> Response {
    let path = RepositoryPath(request.head.path ?? "/")
    var answer: Answer
    do {
      answer = try await self.answer(request, path)
    } catch let refusal as Refusal {
      answer = Answer(refusal)
      if refusal.status.code >= 500 || refusal.status == .forbidden {
        log("\(request.method.rawValue): \(refusal.reason)")
      }
    }
    counters.request(
      Self.methods.contains(request.method) ? request.method.rawValue : "other", path.map(Self.label) ?? "other",
      answer.response.status.code)
    // A body after the head of a HEAD would be taken for the next answer.
    return request.method == .head ? answer.response.createHeadResponse() : answer.response
  }

  private static let methods: Set<HTTPRequest.Method> = [.get, .head, .post, .delete]

  private static func label(_ path: RepositoryPath) -> String {
    switch path.target {
    case .repository: "repository"
    case .metrics: "metrics"
    case .list(let kind): kind.rawValue
    case .object(let name): name.kind.rawValue
    }
  }

  private struct Answer {
    var response: Response

    init(_ response: Response) { self.response = response }

    init(_ refusal: Refusal) {
      response = Response(
        status: refusal.status, headers: [.contentType: "text/plain; charset=utf-8"],
        body: ResponseBody(byteBuffer: ByteBuffer(string: refusal.reason + "\n")))
      if refusal.status == .unauthorized {
        response.headers[.wwwAuthenticate] = "Basic realm=\"repositories\", charset=\"UTF-8\""
      }
    }
  }

  private struct Refusal: Error {
    var status: HTTPResponse.Status
    var reason: String

    static let noSpace = HTTPResponse.Status(code: 507, reasonPhrase: "Insufficient Storage")

    init(_ status: HTTPResponse.Status, _ reason: String) { (self.status, self.reason) = (status, reason) }

    init(_ error: StoreError) {
      switch error {
      case .notFound: self.init(.notFound, "there is no such object")
      case .exists(let name): self.init(.forbidden, "\(name) is there already")
      case .pastEnd: self.init(.rangeNotSatisfiable, "the object is shorter")
      case .corrupt(let name, let reason): self.init(.badRequest, "\(name): \(reason)")
      case .full: self.init(Self.noSpace, "no space is left on the server")
      case .location: self.init(.notFound, "there is no such repository")
      // What a file system says may name paths, which are no client's business.
      case .readOnly, .permission, .locked: self.init(.internalServerError, "the server can't write there")
      case .unavailable, .cancelled: self.init(.serviceUnavailable, "the server can't do that now")
      }
    }
  }

  // MARK: Who and what

  private func answer(_ request: Request, _ path: RepositoryPath?) async throws -> Answer {
    if path?.target == .metrics, settings.metrics == .everybody { return try metrics(request) }
    let user = try await user(of: request)
    guard let path else { throw Refusal(.notFound, "nothing has such a name here") }
    if path.target == .metrics {
      guard settings.metrics == .users else { throw Refusal(.notFound, "metrics are not shown") }
      return try metrics(request)
    }
    if settings.hasPrivateRepositories, path.repository.first != user || user == nil {
      throw Refusal(.forbidden, "repositories of this user begin with /\(user ?? "")/")
    }
    let store = LocalObjectStore(([settings.directory] + path.repository).joined(separator: "/"), pool: pool)
    let owner = settings.hasPrivateRepositories ? user ?? "" : ""
    switch (path.target, request.method) {
    case (.repository, .post):
      guard path.isCreation else { throw Refusal(.badRequest, "only ?create=true is known") }
      try await asking { () throws(StoreError) in try await store.prepare() }
      return Answer(Response(status: .ok))
    case (.list(let kind), .get): return try await list(kind, of: store, request)
    case (.object(let name), .head):
      guard let size = try await asking({ () throws(StoreError) in try await store.size(of: name) }) else {
        throw Refusal(.notFound, "there is no such object")
      }
      return Answer(Response(status: .ok, headers: [.contentLength: "\(size)", .acceptRanges: "bytes"]))
    case (.object(let name), .get): return try await give(name, of: store, request)
    case (.object(let name), .post): return try await take(name, into: store, owner, request)
    case (.object(let name), .delete): return try await remove(name, from: store, owner)
    default: throw Refusal(.methodNotAllowed, "\(request.method.rawValue) is not possible here")
    }
  }

  /// - Returns: `nil` if everybody may come in.
  private func user(of request: Request) async throws -> String? {
    guard let users else { return nil }
    if let header = request.headers[.authorization], header.lowercased().hasPrefix("basic "),
      let bytes = Data(base64Encoded: String(header.dropFirst(6))), let colon = bytes.firstIndex(of: 58)
    {
      let name = String(decoding: bytes[..<colon], as: UTF8.self)
      let password = String(decoding: bytes[bytes.index(after: colon)...], as: UTF8.self)
      if await users.admits(name, password) { return name }
      counters.refusedLogin()
      // A wrong name may be a password typed in the wrong place.
      log("a login was refused")
    }
    throw Refusal(.unauthorized, "a user and a password are wanted")
  }

  private func metrics(_ request: Request) throws -> Answer {
    guard request.method == .get else { throw Refusal(.methodNotAllowed, "metrics are for reading") }
    return Answer(
      Response(
        status: .ok, headers: [.contentType: "text/plain; version=0.0.4; charset=utf-8"],
        body: ResponseBody(byteBuffer: ByteBuffer(string: counters.text(storedBytes: quota.total)))))
  }

  // MARK: Objects

  private func list(_ kind: ObjectKind, of store: LocalObjectStore, _ request: Request) async throws -> Answer {
    let objects: [ObjectInfo]
    do throws(StoreError) { objects = try await store.list(kind) } catch {
      // As rest-server: nothing is there, and nobody need know why.
      if case .location = error { throw Refusal(.notFound, "there is no such repository") }
      throw Refusal(error)
    }
    let isVersionTwo = request.headers[.accept] == ObjectListing.versionTwo
    return Answer(
      Response(
        status: .ok, headers: [.contentType: isVersionTwo ? ObjectListing.versionTwo : ObjectListing.versionOne],
        body: ResponseBody(
          byteBuffer: ByteBuffer(
            bytes: isVersionTwo ? ObjectListing.encode(objects) : ObjectListing.encodeNames(objects)))))
  }

  private func give(_ name: ObjectName, of store: LocalObjectStore, _ request: Request) async throws -> Answer {
    let file = try await asking { () throws(StoreError) in try await store.beginDownload(name) }
    var headers: HTTPFields = [.contentType: "application/octet-stream", .acceptRanges: "bytes"]
    var (range, status) = (0..<file.sizeBytes, HTTPResponse.Status.ok)
    switch ByteRange(request.headers[.range], sizeBytes: file.sizeBytes) {
    case .whole: break
    case .part(let part):
      (range, status) = (part, .partialContent)
      headers[.contentRange] = "bytes \(part.lowerBound)-\(part.upperBound - 1)/\(file.sizeBytes)"
    case .unsatisfiable:
      headers[.contentRange] = "bytes */\(file.sizeBytes)"
      return Answer(Response(status: .rangeNotSatisfiable, headers: headers))
    }
    let wanted = range
    return Answer(
      Response(
        status: status, headers: headers,
        body: ResponseBody(contentLength: wanted.count) { writer in
          var offset = wanted.lowerBound
          while offset < wanted.upperBound {
            let bytes = try await file.read(at: offset, count: min(1 << 20, wanted.upperBound - offset))
            // Cut short behind our back: the connection must break, or the client would wait.
            guard !bytes.isEmpty else { throw StoreError.corrupt(name, "the file became shorter") }
            offset += bytes.count
            counters.sent(bytes.count)
            try await writer.write(ByteBuffer(bytes: bytes))
          }
          try await writer.finish(nil)
        }))
  }

  private func take(
    _ name: ObjectName, into store: LocalObjectStore, _ owner: String, _ request: Request
  ) async throws -> Answer {
    let announced = request.headers[.contentLength].flatMap { Int($0) }
    var (reserved, isKept) = (0, false)
    defer { if !isKept { quota.giveBack(reserved, owner) } }
    func reserve(_ count: Int) throws {
      guard count <= name.kind.limitBytes - reserved else {
        counters.refusedUpload("size")
        throw Refusal(.contentTooLarge, "\(name.kind) objects have at most \(name.kind.limitBytes) bytes")
      }
      guard quota.take(count, owner) else {
        counters.refusedUpload("quota")
        throw Refusal(Refusal.noSpace, "the quota is used up")
      }
      reserved += count
    }
    if let announced { try reserve(announced) }
    let upload = try await asking { () throws(StoreError) in try await store.beginUpload(name) }
    var piece: [UInt8] = []
    piece.reserveCapacity(min(announced ?? 1 << 20, 1 << 20))
    for try await buffer in request.body {
      piece.append(contentsOf: buffer.readableBytesView)
      if upload.sizeBytes + piece.count > reserved {
        guard announced == nil else { throw Refusal(.badRequest, "more came than was announced") }
        try reserve(upload.sizeBytes + piece.count - reserved)
      }
      guard piece.count >= 1 << 20 else { continue }
      let full = piece
      piece.removeAll(keepingCapacity: true)
      try await asking { () throws(StoreError) in try await upload.append(full) }
    }
    let rest = piece
    if !rest.isEmpty { try await asking { () throws(StoreError) in try await upload.append(rest) } }
    counters.received(upload.sizeBytes)
    // A body that breaks off looks like one that ends.
    guard announced == nil || announced == upload.sizeBytes else {
      counters.refusedUpload("incomplete")
      throw Refusal(.badRequest, "less came than was announced")
    }
    do throws(StoreError) { isKept = try await upload.commit() } catch {
      if case .corrupt = error { counters.refusedUpload("hash") }
      if case .exists = error { counters.refusedUpload("exists") }
      throw Refusal(error)
    }
    return Answer(Response(status: .ok))
  }

  private func remove(_ name: ObjectName, from store: LocalObjectStore, _ owner: String) async throws -> Answer {
    guard !settings.isAppendOnly || name.kind == .lock else {
      throw Refusal(.forbidden, "this server is append-only")
    }
    let size = try await asking { () throws(StoreError) in
      let size = try await store.size(of: name)
      try await store.delete(name)
      return size
    }
    quota.giveBack(size ?? 0, owner)
    return Answer(Response(status: .ok))
  }

  private func asking<T>(_ body: () async throws(StoreError) -> T) async throws -> T {
    do throws(StoreError) { return try await body() } catch { throw Refusal(error) }
  }
}

/// What a `Range` header asks for; one range of bytes, or everything.
///
/// Source: RFC 9110, section 14.
enum ByteRange: Equatable {
  case whole
  case part(Range<Int>)
  case unsatisfiable

  init(_ header: String?, sizeBytes: Int) {
    // What isn't understood is ignored, as the standard wants.
    guard let header, header.hasPrefix("bytes="), !header.contains(",") else {
      self = .whole
      return
    }
    let ends = header.dropFirst(6).split(separator: "-", omittingEmptySubsequences: false)
    guard ends.count == 2 else {
      self = .whole
      return
    }
    switch (Int(ends[0]), Int(ends[1])) {
    case (nil, let count?) where ends[0].isEmpty:
      self = count > 0 && sizeBytes > 0 ? .part(max(0, sizeBytes - count)..<sizeBytes) : .unsatisfiable
    case (let first?, let last?) where first >= 0 && last >= first:
      self = first < sizeBytes ? .part(first..<min(sizeBytes, last == .max ? last : last + 1)) : .unsatisfiable
    case (let first?, nil) where first >= 0 && ends[1].isEmpty:
      self = first < sizeBytes ? .part(first..<sizeBytes) : .unsatisfiable
    default: self = .whole
    }
  }
}
