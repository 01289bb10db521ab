import CPQ
import Core
import DriverKit
import IO
import Synchronization

#if canImport(Glibc)
  import Glibc
#endif

/// A statement the server refused.
struct StatementFailure: Error, Sendable {
  /// Five characters; empty if the connection broke before there was one.
  ///
  /// Source: PostgreSQL 15, appendix A, "PostgreSQL Error Codes".
  var code: String
  var message: String

  var isConnectionLost: Bool { code.isEmpty || code.hasPrefix("08") || code.hasPrefix("57P") || code == "25P03" }

  static let cancelled = StatementFailure(code: "salvor-cancelled", message: "cancelled")

  /// The driver's error, where nothing more special is known.
  func driverError(_ what: String) -> DriverError {
    switch code {
    case Self.cancelled.code: .cancelled
    case "42501":
      .permissionDenied("\(what): \(message)", needs: "a superuser, or the grants in docs/drivers/postgresql.md")
    case "28000", "28P01": .authenticationFailed(message)
    case "3D000", "57P01", "57P02", "57P03", "08006", "": .unreachable("\(what): \(message)")
    case "53400", "53300": .unsupported("\(what): \(message)")
    default: .queryFailed("\(what): \(message)")
    }
  }
}

/// One connection to a server, used by one caller at a time.
///
/// The calls block and run on the pool; a statement under way ends within a tenth of a second when its task is cancelled.
final class Connection: Sendable {
  private struct Handle { var pointer: OpaquePointer? }

  /// Held for the length of a statement: libpq allows one thread per connection.
  private let handle: Mutex<Handle>
  private let pool: BlockingPool

  private init(adopting pointer: sending OpaquePointer, pool: BlockingPool) {
    handle = Mutex(Handle(pointer: pointer))
    self.pool = pool
  }

  deinit { handle.withLock { if let pointer = $0.pointer { PQfinish(pointer) } } }

  static func open(_ address: ServerAddress, password: Secret?, pool: BlockingPool) async throws(DriverError)
    -> Connection
  {
    try await pool.run { () throws(DriverError) -> Connection in
      let pointer = address.connect(password: password)
      guard let pointer else { throw .unreachable("\(address): out of memory") }
      if PQstatus(pointer) == CONNECTION_OK {
        // Notices would go to standard error.
        PQsetNoticeProcessor(pointer, { _, _ in }, nil)
        nonisolated(unsafe) let adopted = pointer
        return Connection(adopting: adopted, pool: pool)
      }
      let message = text(PQerrorMessage(pointer))
      let isRefused =
        PQconnectionNeedsPassword(pointer) != 0
        || refusesUs(message)
      PQfinish(pointer)
      if isRefused { throw .authenticationFailed("\(address): \(message)") }
      throw .unreachable("PostgreSQL at \(address): \(message)")
    }
  }

  /// Runs one statement, or without parameters several in one go.
  ///
  /// - Parameter rowLimit: One statement only, row by row; what comes after so many rows is cancelled.
  func run(_ statement: String, _ parameters: [String] = [], rowLimit: Int? = nil) async throws(StatementFailure)
    -> QueryResult
  {
    let isCancelled = Flag()
    return try await withTaskCancellationHandler {
      await pool.run { self.result(of: statement, parameters, rowLimit, isCancelled) }
    } onCancel: {
      isCancelled.set()
    }.get()
  }

  private func result(
    of statement: String, _ parameters: [String], _ rowLimit: Int?, _ isCancelled: Flag
  ) -> Result<QueryResult, StatementFailure> {
    handle.withLock { handle in
      guard let pointer = handle.pointer else {
        return .failure(StatementFailure(code: "", message: "the connection is closed"))
      }
      do throws(StatementFailure) {
        return .success(try perform(statement, parameters, on: pointer, rowLimit: rowLimit, isCancelled: isCancelled))
      } catch {
        return .failure(error)
      }
    }
  }

  /// Runs what has to be run also when the task is cancelled already; a failure means the connection is gone.
  @discardableResult
  func runToEnd(_ statement: String) async -> Bool {
    await pool.run {
      self.handle.withLock { handle in
        guard let pointer = handle.pointer else { return false }
        return (try? perform(statement, [], on: pointer, rowLimit: nil, isCancelled: Flag())) != nil
      }
    }
  }

  /// The single value of the first row.
  func value(_ statement: String, _ parameters: [String] = []) async throws(StatementFailure) -> String? {
    try await run(statement, parameters).rows.first?.first ?? nil
  }

  /// Lends the connection itself, for COPY, to the one caller there is. Blocks.
  func withPointer<T>(_ body: (OpaquePointer) throws -> T) throws -> T {
    let bits = handle.withLock { UInt(bitPattern: $0.pointer) }
    guard let pointer = OpaquePointer(bitPattern: bits) else {
      throw StatementFailure(code: "", message: "the connection is closed")
    }
    return try withExtendedLifetime(self) { try body(pointer) }
  }

  /// Whether a transaction is open and has not failed, as far as the client knows.
  func isInTransaction() async -> Bool {
    await pool.run { self.handle.withLock { PQtransactionStatus($0.pointer) == PQTRANS_INTRANS } }
  }

  func close() async {
    await pool.run {
      self.handle.withLock { handle in
        if let pointer = handle.pointer { PQfinish(pointer) }
        handle.pointer = nil
      }
    }
  }
}

/// Set from a cancellation handler, read from the thread that waits.
private final class Flag: Sendable {
  private let value = Mutex(false)
  func set() { value.withLock { $0 = true } }
  var isSet: Bool { value.withLock { $0 } }
}

private func text(_ pointer: UnsafePointer<CChar>?) -> String {
  guard let pointer else { return "" }
  return String(cString: pointer).split(whereSeparator: \.isNewline).joined(separator: "; ")
}

/// Sends, waits with an eye on the flag, and reads every result.
private func perform(
  _ statement: String, _ parameters: [String], on connection: OpaquePointer, rowLimit: Int?, isCancelled: Flag
) throws(StatementFailure) -> QueryResult {
  if isCancelled.isSet { throw .cancelled }
  let sent: Int32
  if parameters.isEmpty, rowLimit == nil {
    sent = PQsendQuery(connection, statement)
  } else {
    let copies = parameters.map { strdup($0) }
    defer { for copy in copies { free(copy) } }
    let values = copies.map { UnsafePointer<CChar>($0) }
    sent = PQsendQueryParams(connection, statement, Int32(values.count), nil, values, nil, nil, 0)
  }
  guard sent == 1 else { throw StatementFailure(code: "", message: text(PQerrorMessage(connection))) }
  if rowLimit != nil { PQsetSingleRowMode(connection) }
  var outcome = QueryResult(columns: [], rows: [])
  var failure: StatementFailure?
  var asked = false
  while true {
    while PQisBusy(connection) == 1 {
      if isCancelled.isSet, !asked {
        asked = true
        requestCancel(connection)
      }
      var descriptor = pollfd(fd: PQsocket(connection), events: Int16(POLLIN), revents: 0)
      _ = poll(&descriptor, 1, 100)
      guard PQconsumeInput(connection) == 1 else {
        throw StatementFailure(code: "", message: text(PQerrorMessage(connection)))
      }
    }
    guard let result = PQgetResult(connection) else { break }
    defer { PQclear(result) }
    switch PQresultStatus(result) {
    case PGRES_TUPLES_OK:
      let last = QueryResult(columns: columns(of: result), rows: rows(of: result))
      if rowLimit == nil { outcome = last } else { outcome.columns = last.columns }
    case PGRES_SINGLE_TUPLE:
      if outcome.rows.count < rowLimit ?? .max {
        if outcome.rows.isEmpty { outcome.columns = columns(of: result) }
        outcome.rows += rows(of: result)
      } else if !outcome.isTruncated {
        outcome.isTruncated = true
        requestCancel(connection)
      }
    case PGRES_COMMAND_OK, PGRES_EMPTY_QUERY: break
    case PGRES_COPY_IN, PGRES_COPY_OUT, PGRES_COPY_BOTH:
      // Would go on for ever; the caller closes the connection.
      throw StatementFailure(code: "0A000", message: "COPY has no rows to return")
    default:
      // 67 is the letter C: the field with the code.
      let code = PQresultErrorField(result, 67).map { String(cString: $0) } ?? ""
      if failure == nil { failure = StatementFailure(code: code, message: text(PQresultErrorMessage(result))) }
    }
  }
  if let failure, !(outcome.isTruncated && failure.code == "57014") { throw asked ? .cancelled : failure }
  return outcome
}

private func requestCancel(_ connection: OpaquePointer) {
  guard let request = PQgetCancel(connection) else { return }
  var message = [CChar](repeating: 0, count: 256)
  _ = PQcancel(request, &message, Int32(message.count))
  PQfreeCancel(request)
}

private func columns(of result: OpaquePointer) -> [String] { (0..<PQnfields(result)).map { text(PQfname(result, $0)) } }

private func rows(of result: OpaquePointer) -> [[String?]] {
  let width = PQnfields(result)
  return (0..<PQntuples(result)).map { row in
    (0..<width).map { column in
      if PQgetisnull(result, row, column) == 1 { return nil }
      let bytes = UnsafeRawBufferPointer(
        start: PQgetvalue(result, row, column), count: Int(PQgetlength(result, row, column)))
      return String(decoding: bytes, as: UTF8.self)
    }
  }
}

/// Whether a server's words to who connects are a refusal that the next try meets again. There is no code beside them.
func refusesUs(_ message: String) -> Bool {
  // "canceling authentication due to timeout", of a server that is busy.
  !message.contains("timeout") && ["authentication", "pg_hba.conf", "role "].contains { message.contains($0) }
}
