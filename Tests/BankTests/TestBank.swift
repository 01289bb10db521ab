import AsyncHTTPClient
import Core
import GRDBSQLite
import IO
import NIOCore
import NIOHTTP1
import TestSupport
import Testing

#if canImport(Glibc)
  import Glibc
#endif

let serviceNames = ["accounts", "ledger", "sessions", "statements", "gateway"]
let engineServiceNames = serviceNames + ["events", "notices"]

/// A bank of a test's own.
final class TestBank: @unchecked Sendable {
  // Used by one task at a time.
  let home: TemporaryDirectory
  let program: String
  let basePort: Int
  let names: [String]
  private(set) var services: [String: Program] = [:]

  var root: String { home.path }

  init(_ options: [String] = [], beforeInit: (TestBank) throws -> Void = { _ in }) throws {
    home = try TemporaryDirectory("bank")
    program = try Program.bank()
    basePort = try freePorts(7)
    names = options.contains("--engines") ? engineServiceNames : serviceNames
    try beforeInit(self)
    try run(["configure", "--directory", root, "--base-port", String(basePort), "--accounts", "50"] + options)
    for name in names { try run(["init", name, "--config", config(name)]) }
  }

  func config(_ service: String) -> String { "\(root)/config/\(service).json" }

  func url(_ service: String, _ path: String = "") -> String {
    "http://127.0.0.1:\(basePort + (names.firstIndex(of: service) ?? 0))\(path)"
  }

  @discardableResult
  func run(_ words: [String]) throws -> String { try Program.run([program] + words, in: root) }

  func start(_ some: [String]? = nil) async throws {
    let names = some ?? names
    for name in names {
      services[name] = try Program(
        [program, "serve", name, "--config", config(name)], output: "\(root)/log/\(name).log")
    }
    for name in names { try await waitFor(url(name, "/health"), status: 200) }
  }

  /// SIGTERM, front to back; every service must end well.
  func stop() {
    for name in names.reversed() {
      guard let service = services.removeValue(forKey: name) else { continue }
      #expect(service.stop() == 0, "\(name): \(service.text)")
    }
  }

  func kill(_ name: String) { services.removeValue(forKey: name)?.stop(SIGKILL) }

  func load(seconds: Double, rate: Int = 0, concurrency: Int = 8) throws -> Program {
    try Program(
      [
        program, "load", "--gateway", url("gateway"), "--rate", String(rate), "--concurrency", String(concurrency),
        "--seed", "3", "--seconds", String(seconds), "--accounts", "50", "--record", "\(root)/record",
      ], output: "\(root)/load.json")
  }

  func summary(of load: Program) throws -> LoadSummary {
    #expect(load.wait() == 0, "\(load.text)")
    return try CanonicalJSON.decode(LoadSummary.self, from: Array(load.text.utf8))
  }

  /// The ids of acknowledged transfers, from the record.
  func acknowledged() throws -> [String] {
    try lines("\(root)/record").map { String($0.prefix { $0 != "," }) }
  }

  func lines(_ path: String) throws -> [String] {
    String(decoding: try Files.read(path), as: UTF8.self).split(separator: "\n").map(String.init)
  }

  /// Rows of a SQLite file, fields joined by a comma.
  func rows(_ service: String, _ query: String) throws -> Set<String> {
    var handle: OpaquePointer?
    defer { sqlite3_close_v2(handle) }
    let path = "\(root)/data/\(service)/\(service).db"
    try #require(sqlite3_open_v2(path, &handle, SQLITE_OPEN_READWRITE, nil) == SQLITE_OK)
    var statement: OpaquePointer?
    defer { sqlite3_finalize(statement) }
    try #require(sqlite3_prepare_v2(handle, query, -1, &statement, nil) == SQLITE_OK)
    var rows: Set<String> = []
    while sqlite3_step(statement) == SQLITE_ROW {
      let fields = (0..<sqlite3_column_count(statement)).map { column in
        sqlite3_column_text(statement, column).map { String(cString: $0) } ?? ""
      }
      rows.insert(fields.joined(separator: ","))
    }
    return rows
  }

  /// Changes a SQLite file behind its service's back.
  func write(_ service: String, _ statements: String) throws {
    var handle: OpaquePointer?
    defer { sqlite3_close_v2(handle) }
    let path = "\(root)/data/\(service)/\(service).db"
    try #require(sqlite3_open_v2(path, &handle, SQLITE_OPEN_READWRITE, nil) == SQLITE_OK)
    try #require(sqlite3_exec(handle, statements, nil, nil, nil) == SQLITE_OK)
  }

  /// `<customer>,<id>,<from>,<to>,<amount>` for every statement there is.
  func statements() throws -> Set<String> {
    let directory = "\(root)/data/statements"
    var result: Set<String> = []
    for customer in try Files.names(in: directory) where !customer.lossyText.hasPrefix(".") {
      for file in try Files.names(in: "\(directory)/\(customer.lossyText)") {
        let line = try #require(try lines("\(directory)/\(customer.lossyText)/\(file.lossyText)").first)
        #expect(line.hasPrefix("\(file.lossyText.dropLast(4)),"))
        result.insert("\(customer.lossyText),\(line)")
      }
    }
    return result
  }
}

struct LoadSummary: Codable {
  var attempted: Int
  var acknowledged: Int
  var failed: Int
  var latencyMaxMilliseconds: Double
  var lastFailure: String?
}

/// The first of `count` ports in a row that nobody uses.
func freePorts(_ count: Int) throws -> Int {
  while true {
    let first = 12_000 + SystemRandomness().below(18_000)
    if (first..<first + count).allSatisfy({ port in isFree(port) }) { return first }
  }
}

private func isFree(_ port: Int) -> Bool {
  let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
  defer { close(descriptor) }
  var address = sockaddr_in()
  address.sin_family = sa_family_t(AF_INET)
  address.sin_addr.s_addr = inet_addr("127.0.0.1")
  address.sin_port = UInt16(port).bigEndian
  return withUnsafePointer(to: &address) { pointer in
    pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { raw in
      bind(descriptor, raw, socklen_t(MemoryLayout<sockaddr_in>.size)) == 0
    }
  }
}

/// - Returns: The status and the body; status 0 if nobody answers.
func ask(_ url: String, post body: String? = nil) async -> (status: UInt, body: String) {
  var request = HTTPClientRequest(url: url)
  if let body {
    request.method = .POST
    request.body = .bytes(Array(body.utf8), length: .known(Int64(body.utf8.count)))
  }
  do {
    let response = try await HTTPClient.shared.execute(request, timeout: .seconds(20))
    let answer = try await response.body.collect(upTo: 1 << 20)
    return (response.status.code, String(buffer: answer))
  } catch {
    return (0, "\(error)")
  }
}

func waitFor(_ url: String, status: UInt, seconds: Int = 15) async throws {
  var last: (status: UInt, body: String) = (0, "")
  for _ in 0..<(seconds * 20) {
    last = await ask(url)
    if last.status == status { return }
    try await Task.sleep(for: .milliseconds(50))
  }
  Issue.record("\(url) did not answer \(status): \(last)")
}
