import Core
import Foundation
import GRDBSQLite
import IO
import StateKit
import TestSupport

/// A shop of three stores and two services, in a directory of its own: what the kills are aimed at.
///
/// Every order is written to `customers.db`, then as a file, then to `orders.db`: whoever is in the last is in the others.
final class ShopSystem {
  let directory: TemporaryDirectory
  private var calls = 0

  var root: String { directory.path }
  var data: String { "\(root)/data" }
  var customers: String { "\(data)/customers.db" }
  var orders: String { "\(data)/orders.db" }
  var papers: String { "\(data)/papers" }
  var lock: String { "\(data)/papers.lock" }
  /// As long as it exists, the shop's validator fails.
  var veto: String { "\(root)/veto" }
  var marker: String { "shop-of-\(Files.last(of: root))" }

  init() throws {
    directory = try TemporaryDirectory("kill")
    try Files.createDirectory(papers)
    try Files.replace(lock, with: [])
    try Database(customers).run(
      "PRAGMA journal_mode=WAL; CREATE TABLE customer (id INTEGER PRIMARY KEY, name TEXT, filling TEXT)")
    try Database(orders).run(
      "PRAGMA journal_mode=WAL; CREATE TABLE entry (id INTEGER PRIMARY KEY, customer INTEGER, paper TEXT, size INTEGER)"
    )
    try salvor(
      "init", "--file", "\(root)/first.yaml", "--repository", "\(root)/repository", "--password-file",
      "\(root)/password", "--sqlite", customers)
    try Files.replace("\(root)/shop.yaml", with: Array(catalog.utf8))
  }

  private var catalog: String {
    """
    apiVersion: salvor.dev/v1
    kind: Repository
    metadata: {name: main}
    spec: {location: "local:\(root)/repository", password: "file:\(root)/password"}
    ---
    apiVersion: salvor.dev/v1
    kind: Service
    metadata: {name: customers}
    spec:
      stores: [{name: customers-db, sqlite: {path: \(customers)}}]
      start: [sh, -c, "sleep 1000000; : \(marker)-customers"]
      ready: [{exec: [test, -s, \(customers)], interval: 20ms, retries: 20}]
    ---
    apiVersion: salvor.dev/v1
    kind: Service
    metadata: {name: orders}
    spec:
      dependsOn: [customers]
      stores:
        - {name: orders-db, sqlite: {path: \(orders)}}
        - {name: papers, files: {path: \(papers), lockFile: \(lock)}}
      start: [sh, -c, "sleep 1000000; : \(marker)-orders"]
      ready: [{exec: [test, -d, \(papers)], interval: 20ms, retries: 20}]
      validators: [{name: no-veto, exec: [test, "!", -e, \(veto)]}]
    ---
    apiVersion: salvor.dev/v1
    kind: ConsistencyGroup
    metadata: {name: shop}
    spec: {stores: [customers-db, orders-db, papers], holdBudget: 5s}
    ---
    apiVersion: salvor.dev/v1
    kind: Invariant
    metadata: {name: entries-have-customers}
    spec:
      references:
        from: {store: orders-db, query: select customer from entry}
        to: {store: customers-db, query: select id from customer}
    ---
    apiVersion: salvor.dev/v1
    kind: Invariant
    metadata: {name: entries-have-papers}
    spec:
      references:
        from: {store: orders-db, query: "select paper, size from entry"}
        to: {store: papers, query: "list *.txt"}

    """
  }

  // MARK: Salvor

  func start(_ arguments: String...) throws -> SalvorProcess { try start(arguments) }

  func start(_ arguments: [String]) throws -> SalvorProcess {
    calls += 1
    return try SalvorProcess(arguments, in: root, number: calls)
  }

  @discardableResult
  func salvor(_ arguments: String..., expecting codes: Set<Int32> = [0]) throws -> SalvorProcess {
    let process = try start(arguments)
    try process.wait(expecting: codes)
    return process
  }

  func points() throws -> [String] {
    let list = try salvor("points", "-c", "\(root)/shop.yaml", "-o", "json")
    guard case .array(let points) = try CanonicalJSON.decode(JSONValue.self, from: Array(list.output.utf8)) else {
      return []
    }
    return points.compactMap { $0["id"]?.string }
  }

  /// Newest first.
  func runs() throws -> [(id: String, state: String)] {
    let list = try salvor("runs", "-o", "json")
    guard case .array(let runs) = try CanonicalJSON.decode(JSONValue.self, from: Array(list.output.utf8)) else {
      return []
    }
    return runs.map { ($0["id"]?.string ?? "", $0["head"]?["state"]?.string ?? "") }
  }

  /// Every copy of `point`, or of all points, is whole.
  func verify(_ point: String? = nil) throws {
    let which = point.map { [$0] } ?? ["--all"]
    try start(["verify"] + which + ["-c", "\(root)/shop.yaml"]).wait()
  }

  // MARK: The live state

  /// Everything the stores say, and nothing of how they lie on disk.
  func contents() throws -> [String] {
    var lines: [String] = []
    for (name, path, query) in [
      ("customer", customers, "select id, name, filling from customer order by id"),
      ("entry", orders, "select id, customer, paper, size from entry order by id"),
    ] {
      guard Files.exists(path) else {
        lines.append("\(name): missing")
        continue
      }
      lines += try Database(path).rows(query).map { "\(name) \(Digest.of($0))" }
    }
    guard Files.exists(papers) else { return lines + ["papers: missing"] }
    for file in try Files.names(in: papers).map(\.lossyText).sorted() {
      let path = "\(papers)/\(file)"
      var status = stat()
      guard lstat(path, &status) == 0 else { continue }
      lines.append(
        "paper \(file) \(String(status.st_mode, radix: 8)) \(status.st_mtim.tv_sec).\(status.st_mtim.tv_nsec) "
          + Digest.of(String(decoding: try Files.read(path), as: UTF8.self)).short)
    }
    return lines
  }

  func orderCount() throws -> Int { try Int(Database(orders).rows("select count(*) from entry").first ?? "") ?? -1 }

  /// What a restore left beside the live state.
  func workspaces() throws -> [String] {
    try Files.names(in: data).map(\.lossyText).filter { $0.hasPrefix(".salvor-") }.sorted()
  }

  /// How many processes of each service run.
  func running() throws -> [String: Int] {
    var counts: [String: Int] = [:]
    for name in try Files.names(in: "/proc").map(\.lossyText) where Int32(name) != nil {
      guard let bytes = try? Files.read("/proc/\(name)/cmdline", limitBytes: 1 << 16) else { continue }
      let text = String(decoding: bytes, as: UTF8.self)
      for service in ["customers", "orders"] where text.hasPrefix("sh\0") && text.contains("\(marker)-\(service)") {
        counts[service, default: 0] += 1
      }
    }
    return counts
  }

  /// Stops what a failed test left running, each by the number on record.
  func shutDown() {
    for service in ["customers", "orders"] {
      guard let bytes = try? Files.read("\(root)/state/services/\(service).pid", limitBytes: 4096),
        let identity = ProcessIdentity(String(decoding: bytes.prefix { $0 != 10 }, as: UTF8.self)), identity.isLocal,
        !identity.isGone
      else { continue }
      kill(-identity.pid, SIGKILL)
    }
  }
}

/// A connection as a user of the store has it.
final class Database {
  struct Failed: Error, CustomStringConvertible {
    var description: String
  }

  private var handle: OpaquePointer?

  init(_ path: String, busyMilliseconds: Int32 = 5000) throws {
    guard sqlite3_open_v2(path, &handle, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, nil) == SQLITE_OK else {
      throw Failed(description: "can't open \(path)")
    }
    sqlite3_busy_timeout(handle, busyMilliseconds)
  }

  deinit { sqlite3_close_v2(handle) }

  func run(_ sql: String) throws {
    guard sqlite3_exec(handle, sql, nil, nil, nil) == SQLITE_OK else {
      throw Failed(description: "\(sql): \(String(cString: sqlite3_errmsg(handle)))")
    }
  }

  /// Each row as text, columns divided by `|`.
  func rows(_ sql: String) throws -> [String] {
    var statement: OpaquePointer?
    guard sqlite3_prepare_v2(handle, sql, -1, &statement, nil) == SQLITE_OK else {
      throw Failed(description: "\(sql): \(String(cString: sqlite3_errmsg(handle)))")
    }
    defer { sqlite3_finalize(statement) }
    var rows: [String] = []
    while true {
      switch sqlite3_step(statement) {
      case SQLITE_ROW:
        rows.append(
          (0..<sqlite3_column_count(statement)).map { column in
            sqlite3_column_text(statement, column).map { String(cString: $0) } ?? "NULL"
          }.joined(separator: "|"))
      case SQLITE_DONE: return rows
      default: throw Failed(description: "\(sql): \(String(cString: sqlite3_errmsg(handle)))")
      }
    }
  }
}
