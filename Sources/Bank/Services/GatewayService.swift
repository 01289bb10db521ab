import AsyncHTTPClient
import Core
import Hummingbird
import NIOCore
import NIOHTTP1
import Synchronization

/// The bank's door: leads a transfer through the other services, each step acknowledged before the next begins.
///
/// The order is what makes a consistent cut recognisable: whatever a later step wrote, an earlier step has written too.
struct GatewayService {
  let client: HTTPClient
  let urls: [Service: String]
  let statementEvery: Int
  let ids: TransferIDs

  init(_ configuration: ServiceConfiguration, client: HTTPClient, seed: String) throws(BankError) {
    self.client = client
    var urls: [Service: String] = [:]
    for service in Service.allCases where service != .gateway {
      urls[service] =
        Flavour.embedded.services.contains(service)
        ? try configuration.peer(service) : configuration.peers?[service.rawValue]
    }
    self.urls = urls
    statementEvery = max(1, configuration.statementEvery ?? 1)
    ids = TransferIDs(seed: seed)
  }

  func routes() -> Routes {
    let routes = Routes()
    routes.post("/transfers") { request, _ in
      let asked = try await request.value(TransferRequest.self)
      try validateName(asked.customer, what: "customer")
      let (id, number) = ids.next()
      let transfer = Transfer(id: id, from: asked.from, to: asked.to, amount: asked.amount)
      try transfer.validate()
      try await carryOut(transfer, customer: asked.customer, number: number)
      return try json(TransferReceipt(id: id), status: .created)
    }
    routes.get("/accounts/:id") { _, context in
      let id = try context.parameters.require("id")
      try validateName(id, what: "account")
      return try await pass(.accounts, "/accounts/\(id)")
    }
    addHealth(to: routes, .gateway, ping: { try await checkPeers() })
    routes.get("/stats") { _, _ in
      var all: [String: JSONValue] = [:]
      for service in urls.keys {
        let (_, body) = try await call(service, .GET, "/stats", expecting: 200)
        all[service.rawValue] = try CanonicalJSON.decode(JSONValue.self, from: body)
      }
      return try json(all)
    }
    return routes
  }

  private func carryOut(_ transfer: Transfer, customer: String, number: UInt64) async throws {
    let entry = try CanonicalJSON.encode(CustomerTransfer(customer: customer, transfer: transfer))
    try await call(.ledger, .POST, "/entries", entry, expecting: 204)
    let body = try CanonicalJSON.encode(transfer)
    let (status, _) = try await call(.accounts, .POST, "/transfers", body, expecting: 204, 404, 409)
    guard status == 204 else {
      try await call(.ledger, .POST, "/entries/\(transfer.id)/reject", expecting: 204)
      throw BankError.refused("the transfer was rejected: unknown account, or not enough money")
    }
    try await call(.ledger, .POST, "/entries/\(transfer.id)/post", expecting: 204)
    if urls[.events] != nil { try await call(.events, .POST, "/events", entry, expecting: 204) }
    if urls[.notices] != nil { try await call(.notices, .POST, "/notices", entry, expecting: 204) }
    let update = try CanonicalJSON.encode(SessionUpdate(lastTransfer: transfer.id))
    try await call(.sessions, .PUT, "/sessions/\(customer)", update, expecting: 204)
    if number.isMultiple(of: UInt64(statementEvery)) {
      try await call(.statements, .POST, "/statements", entry, expecting: 204)
    }
  }

  private func checkPeers() async throws {
    try await withThrowingTaskGroup(of: Void.self) { group in
      for service in urls.keys {
        group.addTask { _ = try await call(service, .GET, "/health", expecting: 200) }
      }
      try await group.waitForAll()
    }
  }

  private func pass(_ service: Service, _ path: String) async throws -> Response {
    let (status, body) = try await call(service, .GET, path, expecting: 200, 404)
    return Response(
      status: status == 200 ? .ok : .notFound, headers: [.contentType: "application/json"],
      body: ResponseBody(byteBuffer: ByteBuffer(bytes: body)))
  }

  @discardableResult
  private func call(
    _ service: Service, _ method: HTTPMethod, _ path: String, _ body: [UInt8]? = nil, expecting expected: UInt...
  ) async throws(BankError) -> (status: UInt, body: [UInt8]) {
    do {
      var request = HTTPClientRequest(url: (urls[service] ?? "") + path)
      request.method = method
      if let body { request.body = .bytes(body, length: .known(Int64(body.count))) }
      let response = try await client.execute(request, timeout: .seconds(20))
      let answer = Array(buffer: try await response.body.collect(upTo: 1 << 20))
      guard expected.contains(response.status.code) else {
        throw BankError.peerAway(
          service.rawValue, "\(response.status.code) \(String(decoding: answer.prefix(500), as: UTF8.self))")
      }
      return (response.status.code, answer)
    } catch let error as BankError {
      throw error
    } catch {
      throw .peerAway(service.rawValue, "\(error)")
    }
  }
}

/// Makes ids no other start of the gateway has made: `t-<n>-<seed>`.
final class TransferIDs: Sendable {
  private let count = Atomic<UInt64>(0)
  private let seed: String

  init(seed: String) { self.seed = seed }

  func next() -> (id: String, number: UInt64) {
    let number = count.wrappingAdd(1, ordering: .relaxed).newValue
    return ("t-\(number)-\(seed)", number)
  }
}

/// The client every call of this bank goes through: connections are kept and used again.
func makeClient() -> HTTPClient {
  var configuration = HTTPClient.Configuration()
  configuration.timeout = .init(connect: .seconds(2), read: .seconds(20))
  configuration.connectionPool.concurrentHTTP1ConnectionsPerHostSoftLimit = 64
  // A request that can't connect fails at once; whoever asked decides whether to ask again.
  configuration.connectionPool.retryConnectionEstablishment = false
  configuration.httpVersion = .http1Only
  return HTTPClient(eventLoopGroupProvider: .singleton, configuration: configuration)
}
