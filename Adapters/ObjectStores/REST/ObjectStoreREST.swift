import Core
import Foundation
import Vault
import Web

/// Objects on a server that speaks restic's REST protocol: `rest-server`, `rclone serve restic`, `salvor vault serve`.
///
/// One call is one or two requests, and nothing is tried twice: that is for a decorator. An append-only server refuses to
/// delete anything but locks.
///
/// Source: restic, "REST Backend", API versions 1 and 2.
package struct RESTObjectStore: ObjectStore {
  /// Ends with a slash; holds no user and no password.
  private let base: String
  private let authorization: Secret?
  private let client: any WebTransport
  private let pace: RESTPace
  package let location: String

  /// - Parameters:
  ///   - base: Absolute `http`, `https` or `http+unix` address, percent-encoded, without user and password.
  ///   - location: For people, if not the address; without secrets.
  package init(
    _ base: String, user: String? = nil, password: Secret? = nil, client: any WebTransport, pace: RESTPace = RESTPace(),
    location: String? = nil
  ) {
    let base = base.hasSuffix("/") ? base : base + "/"
    (self.base, self.client, self.pace, self.location) = (base, client, pace, location ?? "rest:\(base)")
    authorization = user.map { user in
      let pair = Array(user.utf8) + [58] + (password?.withBytes { Array($0) } ?? [])
      return Secret("Basic \(Data(pair).base64EncodedString())")
    }
  }

  package func prepare() async throws(StoreError) {
    let response = try await send(.post, "?create=true", body: [])
    guard response.isSuccess else { throw refusal(response, "the repository could not be made") }
  }

  package func put(_ name: ObjectName, _ bytes: [UInt8]) async throws(StoreError) {
    guard name.kind != .escrow else { throw .readOnly("\(location) knows restic's kinds of files alone") }
    // Servers differ in what they do about a name that is taken; only the config's can be taken by something else.
    if name == .config, try await isThere(name, bytes) { return }
    let response = try await send(
      .post, Self.path(name), headers: [("Content-Type", "application/octet-stream")], body: bytes)
    switch response.status {
    case 200..<300: return
    case 403, 409, 412:
      // Taken, or not allowed: what lies there tells.
      if try await isThere(name, bytes) { return }
      throw refusal(response, "\(name) was refused")
    default: throw refusal(response, "\(name) was not stored")
    }
  }

  package func get(_ name: ObjectName) async throws(StoreError) -> [UInt8] {
    let response = try await send(.get, Self.path(name), limitBytes: name.kind.limitBytes)
    switch response.status {
    case 200: return response.body
    case 404: throw .notFound(name)
    default: throw refusal(response, "\(name) was not given")
    }
  }

  package func get(_ name: ObjectName, range: Range<Int>) async throws(StoreError) -> [UInt8] {
    guard !range.isEmpty else { return [] }
    let response = try await send(
      .get, Self.path(name), headers: [("Range", "bytes=\(range.lowerBound)-\(range.upperBound - 1)")],
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
    case .failed where response.status == 404: throw .notFound(name)
    case .failed: throw refusal(response, "\(name) was not given")
    }
  }

  package func list(_ kind: ObjectKind) async throws(StoreError) -> [ObjectInfo] {
    if kind == .escrow { return [] }
    if kind == .config { return try await size(of: .config).map { [ObjectInfo(.config, sizeBytes: $0)] } ?? [] }
    let response = try await send(
      .get, "\(kind.rawValue)/", headers: [("Accept", ObjectListing.versionTwo)],
      limitBytes: ObjectListing.limitBytes)
    switch response.status {
    case 200:
      if response.headers["content-type"]?.hasPrefix(ObjectListing.versionTwo) == true {
        return try ObjectListing.parse(response.body, kind)
      }
      return try await sized(try ObjectListing.parseNames(response.body, kind))
    case 404: return []
    default: throw refusal(response, "\(kind.rawValue) was not listed")
    }
  }

  package func size(of name: ObjectName) async throws(StoreError) -> Int? {
    let response = try await send(.head, Self.path(name))
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
    // Some servers call it a success when there was nothing to delete.
    guard try await contains(name) else { throw .notFound(name) }
    let response = try await send(.delete, Self.path(name))
    switch response.status {
    case 200..<300: return
    case 404: throw .notFound(name)
    case 403: throw .permission("\(location) keeps \(name): it is append-only, or this user may not delete")
    default: throw refusal(response, "\(name) was not deleted")
    }
  }

  // MARK: Requests

  /// As in the protocol: packs are not spread over directories.
  private static func path(_ name: ObjectName) -> String {
    name.id.map { "\(name.kind.rawValue)/\($0.hex)" } ?? name.kind.rawValue
  }

  /// Version 1 lists names alone.
  private func sized(_ names: [ObjectName]) async throws(StoreError) -> [ObjectInfo] {
    let result: Result<[ObjectInfo], StoreError> = await withTaskGroup(of: Result<ObjectInfo?, StoreError>.self) {
      group in
      var (next, found, failure) = (names.startIndex, [ObjectInfo](), StoreError?.none)
      func add() {
        guard next < names.endIndex, failure == nil else { return }
        let name = names[next]
        next += 1
        group.addTask {
          do throws(StoreError) {
            // Gone since it was listed: deleted by someone, and not part of the list.
            return .success(try await size(of: name).map { ObjectInfo(name, sizeBytes: $0) })
          } catch { return .failure(error) }
        }
      }
      for _ in 0..<8 { add() }
      while let one = await group.next() {
        switch one {
        case .success(let info): if let info { found.append(info) }
        case .failure(let error):
          failure = failure ?? error
          group.cancelAll()
        }
        add()
      }
      return failure.map { .failure($0) } ?? .success(found)
    }
    return try ObjectListing.checked(try result.get())
  }

  /// - Throws: `.exists` if the name has other content.
  private func isThere(_ name: ObjectName, _ bytes: [UInt8]) async throws(StoreError) -> Bool {
    guard let size = try await size(of: name) else { return false }
    guard size == bytes.count, try await get(name) == bytes else { throw .exists(name) }
    return true
  }

  private func send(
    _ method: WebRequest.Method, _ path: String, headers: [(name: String, value: String)] = [], body: [UInt8]? = nil,
    limitBytes: Int = 65_536
  ) async throws(StoreError) -> WebResponse {
    var request = WebRequest(method, base + path)
    request.headers = headers
    if let authorization { request.headers.append(("Authorization", authorization.revealed())) }
    request.body = body
    request.responseLimitBytes = limitBytes
    request.stallLimit = pace.stall
    request.timeLimit = pace.limit(forBytes: max(body?.count ?? 0, method == .get ? min(limitBytes, 64 << 20) : 0))
    do throws(WebFailure) { return try await client.send(request) } catch {
      switch error {
      case .cancelled: throw .cancelled
      case .address(let reason): throw .location("\(location): \(reason)")
      case .trust(let reason): throw .permission("\(location): \(reason)")
      default: throw .unavailable("\(location): \(error)")
      }
    }
  }

  private func refusal(_ response: WebResponse, _ what: String) -> StoreError {
    let text =
      "\(location): \(what): status \(response.status)\(response.excerpt.isEmpty ? "" : ", \(response.excerpt)")"
    return switch response.status {
    case 300..<400: .location("\(location) sends us elsewhere (status \(response.status)): name the final address")
    case 401: .permission("\(location) wants a user and a password, or doesn't know the ones it got")
    case 403: .permission(text)
    case 404: .location("\(location): \(what): there is nothing at this address")
    case 413, 507: .full(text)
    default: .unavailable(text)
    }
  }
}

/// How long one request may take: a fixed part, and what its bytes need on the slowest line that is of use.
package struct RESTPace: Sendable {
  package var base: Duration
  package var bytesPerSecond: Int
  /// How long nothing may move.
  package var stall: Duration

  package init(base: Duration = .seconds(60), bytesPerSecond: Int = 32 << 10, stall: Duration = .seconds(60)) {
    (self.base, self.bytesPerSecond, self.stall) = (base, bytesPerSecond, stall)
  }

  func limit(forBytes count: Int) -> Duration { base + .seconds(count / max(1, bytesPerSecond)) }
}
