import CPQ
import Core
import IO

/// One connection to a PostgreSQL server through libpq; commits are as durable as the server's settings say.
final class PostgreSQLConnection: SQLConnection {
  static let beginStatement = "BEGIN"

  private let handle: OpaquePointer
  private var prepared: [String: String] = [:]

  init(_ settings: StoreSettings) throws(BankError) {
    let (host, port) = try settings.requireAddress()
    var options = [
      "host": host, "port": String(port), "user": settings.user ?? "bank", "dbname": settings.database ?? "bank",
      "connect_timeout": "3", "application_name": "salvor-bank", "client_encoding": "UTF8",
      // A server that vanished without a word must not hold a lane for ever.
      "keepalives_idle": "10", "tcp_user_timeout": "30000",
    ]
    if let file = settings.passwordFile { options["password"] = try Self.password(file) }
    let keys = options.keys.sorted()
    let connection = withCStrings(keys) { keyPointers in
      withCStrings(keys.map { options[$0] ?? "" }) { valuePointers in
        PQconnectdbParams(keyPointers, valuePointers, 0)
      }
    }
    guard let connection else { throw .storeAway("postgresql: out of memory") }
    guard PQstatus(connection) == CONNECTION_OK else {
      let message = Self.line(PQerrorMessage(connection))
      PQfinish(connection)
      throw .storeAway("postgresql at \(host):\(port): \(message)")
    }
    PQsetNoticeProcessor(connection, { _, _ in }, nil)
    handle = connection
  }

  deinit { PQfinish(handle) }

  var isCurrent: Bool { PQstatus(handle) == CONNECTION_OK }

  func run(_ text: String, _ parameters: [SQLValue]) throws(BankError) -> [[String?]] {
    let name = try prepare(text)
    let values = parameters.map { parameter in
      switch parameter {
      case .text(let value): value
      case .integer(let value): String(value)
      }
    }
    let result = withCStrings(values) { pointers in
      PQexecPrepared(handle, name, Int32(values.count), pointers, nil, nil, 0)
    }
    defer { PQclear(result) }
    try check(result)
    let columns = PQnfields(result)
    return (0..<PQntuples(result)).map { row in
      (0..<columns).map { column in
        PQgetisnull(result, row, column) == 1 ? nil : String(cString: PQgetvalue(result, row, column))
      }
    }
  }

  private func prepare(_ text: String) throws(BankError) -> String {
    if let known = prepared[text] { return known }
    let name = "s\(prepared.count)"
    let result = PQprepare(handle, name, text, 0, nil)
    defer { PQclear(result) }
    try check(result)
    prepared[text] = name
    return name
  }

  private func check(_ result: OpaquePointer?) throws(BankError) {
    switch PQresultStatus(result) {
    case PGRES_COMMAND_OK, PGRES_TUPLES_OK: return
    default: break
    }
    let message = Self.line(PQerrorMessage(handle))
    let state = PQresultErrorField(result, Int32(UInt8(ascii: "C"))).map { String(cString: $0) } ?? ""
    // Class 08: connection, 53: resources, 57: shutdown and start-up. Source: PostgreSQL manual, appendix A.
    if PQstatus(handle) != CONNECTION_OK || ["08", "53", "57"].contains(state.prefix(2)) {
      throw .storeAway("postgresql: \(message)")
    }
    throw .storeRefused("postgresql: \(message) (\(state))")
  }

  static func password(_ path: String) throws(BankError) -> String {
    do {
      let text = String(decoding: try Files.read(path, limitBytes: 4096), as: UTF8.self)
      return String(text.prefix { $0 != "\n" })
    } catch {
      throw .configuration("store.passwordFile: \(error.report.summary)")
    }
  }

  private static func line(_ message: UnsafeMutablePointer<CChar>?) -> String {
    guard let message else { return "no message" }
    return String(cString: message).split(separator: "\n").joined(separator: "; ")
  }
}

/// Lends `texts` as a NULL-terminated array of C strings.
func withCStrings<T>(_ texts: [String], _ body: (UnsafePointer<UnsafePointer<CChar>?>) -> T) -> T {
  var bytes: [CChar] = []
  var offsets: [Int] = []
  for text in texts {
    offsets.append(bytes.count)
    bytes.append(contentsOf: text.utf8CString)
  }
  // Never empty, so that there always is a base address.
  bytes.append(0)
  return bytes.withUnsafeBufferPointer { buffer in
    var pointers: [UnsafePointer<CChar>?] = offsets.map { offset in buffer.baseAddress.map { $0 + offset } }
    pointers.append(nil)
    return pointers.withUnsafeBufferPointer { raw in
      guard let base = raw.baseAddress else { preconditionFailure("an array with a terminator is never empty") }
      return body(base)
    }
  }
}
