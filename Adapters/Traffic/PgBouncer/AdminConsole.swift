import CPQ
import Core

#if canImport(Glibc)
  import Glibc
#endif

/// Why the console told nothing; `isRefusal` if it said no.
struct ConsoleFailure: Error {
  var why: String
  var isRefusal = false
  var isLate = false
}

/// One connection to PgBouncer's admin console. Blocks; for one caller.
///
/// The console knows the simple protocol alone, and may take for ever over PAUSE: what is asked is waited for with poll(2).
final class AdminConsole {
  private let pointer: OpaquePointer

  init(host: String, port: UInt16, user: String, password: Secret?, patience: Duration) throws(ConsoleFailure) {
    let seconds = max(2, Int(patience.seconds.rounded(.up)))
    var values = [
      "host": host, "port": String(port), "dbname": "pgbouncer", "user": user, "connect_timeout": String(seconds),
      "application_name": "salvor", "sslmode": "prefer", "client_encoding": "UTF8",
    ]
    values["password"] = password?.revealed()
    // Nothing of ours: neither ~/.pgpass nor a service's file.
    values["passfile"] = "/dev/null"
    let keys = values.keys.sorted()
    let names: [UnsafeMutablePointer<CChar>?] = keys.map { strdup($0) } + [nil]
    let texts: [UnsafeMutablePointer<CChar>?] = keys.map { strdup(values[$0] ?? "") } + [nil]
    defer {
      for text in texts {
        if let text { explicit_bzero(text, strlen(text)) }
        free(text)
      }
      for name in names { free(name) }
    }
    let opened = names.withUnsafeBufferPointer { names in
      texts.withUnsafeBufferPointer { texts in
        names.baseAddress!.withMemoryRebound(to: UnsafePointer<CChar>?.self, capacity: names.count) { names in
          texts.baseAddress!.withMemoryRebound(to: UnsafePointer<CChar>?.self, capacity: texts.count) { texts in
            PQconnectdbParams(names, texts, 0)
          }
        }
      }
    }
    guard let opened else { throw ConsoleFailure(why: "out of memory") }
    guard PQstatus(opened) == CONNECTION_OK else {
      let why = Self.line(PQerrorMessage(opened))
      PQfinish(opened)
      throw ConsoleFailure(why: why)
    }
    PQsetNoticeProcessor(opened, { _, _ in }, nil)
    pointer = opened
  }

  deinit { PQfinish(pointer) }

  /// - Returns: Rows by column; none for a command.
  @discardableResult
  func ask(_ command: String, patience: Duration) throws(ConsoleFailure) -> [[String: String]] {
    guard PQsendQuery(pointer, command) == 1 else { throw ConsoleFailure(why: Self.line(PQerrorMessage(pointer))) }
    var left = max(1, patience.wholeNanoseconds / 1_000_000)
    while PQisBusy(pointer) == 1 {
      var entry = pollfd(fd: PQsocket(pointer), events: Int16(POLLIN), revents: 0)
      let slice = min(50, left)
      if poll(&entry, 1, Int32(slice)) > 0 {
        guard PQconsumeInput(pointer) == 1 else { throw ConsoleFailure(why: Self.line(PQerrorMessage(pointer))) }
      } else {
        left -= slice
        guard left > 0 else { throw ConsoleFailure(why: "nothing within \(patience.brief)", isLate: true) }
      }
    }
    var rows: [[String: String]] = []
    var failure: ConsoleFailure?
    while let result = PQgetResult(pointer) {
      defer { PQclear(result) }
      switch PQresultStatus(result) {
      case PGRES_TUPLES_OK: rows = Self.rows(result)
      case PGRES_COMMAND_OK, PGRES_EMPTY_QUERY: break
      default: failure = ConsoleFailure(why: Self.line(PQresultErrorMessage(result)), isRefusal: true)
      }
    }
    if let failure { throw failure }
    return rows
  }

  private static func rows(_ result: OpaquePointer) -> [[String: String]] {
    (0..<PQntuples(result)).map { row in
      var cells: [String: String] = [:]
      for column in 0..<PQnfields(result) where PQgetisnull(result, row, column) == 0 {
        cells[String(cString: PQfname(result, column))] = String(cString: PQgetvalue(result, row, column))
      }
      return cells
    }
  }

  private static func line(_ text: UnsafePointer<CChar>?) -> String {
    text.map { String(cString: $0).split(whereSeparator: \.isNewline).joined(separator: ": ") } ?? ""
  }
}
