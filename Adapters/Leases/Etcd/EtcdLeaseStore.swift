import Core
import Foundation
import StateKit
import Synchronization
import Web

/// Who we are to an etcd that asks.
package struct EtcdUser: Sendable {
  package var name: String
  /// Asked for whenever etcd wants to be told anew.
  package var password: @Sendable () async throws(AnyFailure) -> Secret

  package init(name: String, password: @escaping @Sendable () async throws(AnyFailure) -> Secret) {
    (self.name, self.password) = (name, password)
  }
}

/// Leases in etcd, over its JSON gateway.
///
/// A tenure is a key that holds a lease of etcd's; its fence is the key's `create_revision`, which only grows. Whatever is
/// written under a tenure is one transaction that compares it.
/// Source: etcd 3.4, `rpc.proto`: Txn, LeaseGrant, LeaseKeepAlive, LeaseRevoke, Authenticate.
package final class EtcdLeaseStore: LeaseStore {
  /// Asked in turn until one answers.
  private let endpoints: [String]
  private let prefix: String
  private let web: any WebTransport
  private let user: EtcdUser?
  private let timeLimit: Duration
  /// What etcd gave for the password; lapses when it likes.
  private let token = Mutex<Secret?>(nil)

  package init(
    endpoints: [String], prefix: String = "/salvor/failover", web: any WebTransport, user: EtcdUser? = nil,
    timeLimit: Duration = .seconds(2)
  ) {
    (self.endpoints, self.prefix, self.web) = (endpoints, prefix, web)
    (self.user, self.timeLimit) = (user, timeLimit)
  }

  package func take(_ seat: SeatName, as holder: Holder, for period: Duration) async throws(LeaseError) -> Tenure {
    // Whole seconds; etcd may make it longer, never shorter.
    let seconds = max(1, Int64(period.seconds.rounded(.up)))
    let granted = try await ask("/v3/lease/grant", ["TTL": .integer(seconds)])
    guard let lease = granted["ID"]?.string else { throw .corrupt("a lease without a number") }
    let key = key(seat, "lease")
    let answer = try await ask(
      "/v3/kv/txn",
      [
        "compare": [["key": .string(key), "target": "CREATE", "create_revision": "0", "result": "EQUAL"]],
        "success": [["request_put": ["key": .string(key), "value": text(holder.text), "lease": .string(lease)]]],
        "failure": [["request_range": ["key": .string(key)]]],
      ])
    if answer["succeeded"]?.bool == true {
      guard let revision = number(answer["header"]?["revision"]), revision > 0 else { throw .corrupt("no revision") }
      return Tenure(seat: seat, holder: holder, fence: Fence(revision), token: lease)
    }
    _ = try? await ask("/v3/lease/revoke", ["ID": .string(lease)])
    throw .taken(seat, by: Holder(value(pairs(answer, 0).first) ?? "somebody"))
  }

  package func renew(_ tenure: Tenure) async throws(LeaseError) {
    let answer = try await ask("/v3/lease/keepalive", ["ID": .string(tenure.token)])
    guard let left = number(answer["result"]?["TTL"]), left > 0 else {
      throw .lapsed(tenure.seat, fence: tenure.fence)
    }
  }

  package func release(_ tenure: Tenure) async throws(LeaseError) {
    do throws(LeaseError) {
      _ = try await ask("/v3/lease/revoke", ["ID": .string(tenure.token)])
    } catch {
      // A lease that is gone is what was wanted.
      if case .unavailable(let text) = error, text.contains("not found") { return }
      throw error
    }
  }

  package func view(_ seat: SeatName) async throws(LeaseError) -> SeatView {
    let names = ["lease", "record", "order"]
    let answer = try await ask(
      "/v3/kv/txn",
      ["success": .array(names.map { ["request_range": ["key": .string(key(seat, $0))]] })])
    guard answer["responses"]?.array?.count == names.count else { throw .corrupt("a view without its parts") }
    var view = SeatView()
    if let pair = pairs(answer, 0).first {
      guard let revision = number(pair["create_revision"]), let holder = value(pair) else {
        throw .corrupt("a lease without a revision")
      }
      let lease = number(pair["lease"]) ?? 0
      view.tenure = Tenure(seat: seat, holder: Holder(holder), fence: Fence(revision), token: "\(lease)")
    }
    view.record = bytes(pairs(answer, 1).first)
    view.order = bytes(pairs(answer, 2).first)
    return view
  }

  package func write(_ record: [UInt8], under tenure: Tenure) async throws(LeaseError) {
    let answer = try await ask(
      "/v3/kv/txn",
      [
        "compare": [
          [
            "key": .string(key(tenure.seat, "lease")), "target": "CREATE",
            "create_revision": .string("\(tenure.fence)"), "result": "EQUAL",
          ]
        ],
        "success": [["request_put": ["key": .string(key(tenure.seat, "record")), "value": .string(base64(record))]]],
      ])
    guard answer["succeeded"]?.bool == true else { throw .lapsed(tenure.seat, fence: tenure.fence) }
  }

  package func order(_ order: [UInt8], on seat: SeatName) async throws(LeaseError) {
    _ = try await ask("/v3/kv/put", ["key": .string(key(seat, "order")), "value": .string(base64(order))])
  }

  // MARK: The gateway

  private func ask(_ path: String, _ body: JSONValue) async throws(LeaseError) -> JSONValue {
    guard user != nil else { return try await send(path, body) }
    if let known = token.withLock({ $0 }) {
      do throws(LeaseError) { return try await send(path, body, known) } catch {
        // A token that lapsed, or of a server that was started again. Nothing was done.
        guard case .unavailable(let text) = error, text.contains("invalid auth token") else { throw error }
      }
    }
    let fresh = try await authenticate()
    return try await send(path, body, fresh)
  }

  private func authenticate() async throws(LeaseError) -> Secret {
    guard let user else { throw .unavailable("there is nobody to be") }
    let password: Secret
    do throws(AnyFailure) { password = try await user.password() } catch { throw .unavailable(error.report.summary) }
    let answer = try await send(
      "/v3/auth/authenticate", ["name": .string(user.name), "password": .string(password.revealed())])
    guard let text = answer["token"]?.string, !text.isEmpty else { throw .corrupt("no token for the password") }
    let fresh = Secret(text)
    token.withLock { $0 = fresh }
    return fresh
  }

  private func send(_ path: String, _ body: JSONValue, _ token: Secret? = nil) async throws(LeaseError) -> JSONValue {
    var last = LeaseError.unavailable("no endpoint is given")
    for endpoint in endpoints {
      var request = WebRequest(.post, endpoint + path)
      request.headers = [("content-type", "application/json")]
      if let token { request.headers.append(("authorization", token.revealed())) }
      request.body = (try? CanonicalJSON.encode(body)) ?? []
      (request.timeLimit, request.stallLimit, request.responseLimitBytes) = (timeLimit, timeLimit, 1 << 20)
      let response: WebResponse
      do throws(WebFailure) { response = try await web.send(request) } catch {
        if error == .cancelled { throw .cancelled }
        last = .unavailable("\(endpoint): \(error)")
        continue
      }
      guard response.isSuccess else {
        // With a configuration file etcd 3.4 leaves its gateway out.
        let why = response.status == 404 ? " (its JSON gateway is off: 'enable-grpc-gateway: true' turns it on)" : ""
        last = .unavailable("\(endpoint) answers \(response.status): \(response.excerpt)\(why)")
        // It understood, and said no: another would say the same.
        if response.status < 500 { throw last }
        continue
      }
      guard let value = try? CanonicalJSON.decode(JSONValue.self, from: response.body) else {
        throw .corrupt("\(endpoint) doesn't answer in JSON")
      }
      return value
    }
    throw last
  }

  private func key(_ seat: SeatName, _ part: String) -> String { base64(Array("\(prefix)/\(seat)/\(part)".utf8)) }

  private func text(_ text: String) -> JSONValue { .string(base64(Array(text.utf8))) }

  private func pairs(_ answer: JSONValue, _ index: Int) -> [JSONValue] {
    guard let responses = answer["responses"]?.array, index < responses.count else { return [] }
    return responses[index]["response_range"]?["kvs"]?.array ?? []
  }

  private func bytes(_ pair: JSONValue?) -> [UInt8]? {
    pair.flatMap { ($0["value"]?.string ?? "") }.flatMap { Data(base64Encoded: $0) }.map { Array($0) }
  }

  private func value(_ pair: JSONValue?) -> String? { bytes(pair).map { String(decoding: $0, as: UTF8.self) } }

  private func base64(_ bytes: [UInt8]) -> String { Data(bytes).base64EncodedString() }

  /// 64-bit numbers are texts there.
  private func number(_ value: JSONValue?) -> Int64? { value?.string.flatMap { Int64($0) } ?? value?.integer }
}
