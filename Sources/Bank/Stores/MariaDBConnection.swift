import CMariaDB
import Core

/// One connection to a MariaDB server through its C library; commits are as durable as the server's settings say.
final class MariaDBConnection: SQLConnection {
  static let beginStatement = "START TRANSACTION"
  private static let library: Int32 = mysql_server_init(0, nil, nil)

  private let handle: UnsafeMutablePointer<MYSQL>
  private var isLost = false

  convenience init(_ settings: StoreSettings) throws(BankError) {
    let (host, port) = try settings.requireAddress()
    try self.init(
      host: host, port: port, socket: nil, user: settings.user ?? "bank",
      password: settings.passwordFile.map { (path) throws(BankError) in try PostgreSQLConnection.password(path) },
      database: settings.database ?? "bank")
  }

  /// - Parameter socket: A Unix socket, instead of host and port.
  init(
    host: String, port: Int, socket: String?, user: String, password: String?, database: String?
  ) throws(BankError) {
    guard Self.library == 0, let opened = mysql_init(nil) else { throw .storeAway("mariadb: out of memory") }
    // Longer than any hold: a hold delays, and never fails, a write.
    var (patience, silence): (UInt32, UInt32) = (3, 30)
    mysql_options(opened, MYSQL_OPT_CONNECT_TIMEOUT, &patience)
    mysql_options(opened, MYSQL_OPT_READ_TIMEOUT, &silence)
    mysql_options(opened, MYSQL_OPT_WRITE_TIMEOUT, &silence)
    mysql_options(opened, MYSQL_SET_CHARSET_NAME, "utf8mb4")
    guard
      mysql_real_connect(
        opened, socket == nil ? host : nil, user, password, database, UInt32(port), socket, 0) != nil
    else {
      let message = String(cString: mysql_error(opened))
      mysql_close(opened)
      throw .storeAway("mariadb at \(socket ?? "\(host):\(port)"): \(message)")
    }
    handle = opened
  }

  deinit { mysql_close(handle) }

  var isCurrent: Bool { !isLost }

  func run(_ text: String, _ parameters: [SQLValue]) throws(BankError) -> [[String?]] {
    let statement = Array(try filled(text, parameters).utf8)
    let code = statement.withUnsafeBytes { bytes in
      mysql_real_query(handle, bytes.bindMemory(to: CChar.self).baseAddress, UInt(bytes.count))
    }
    guard code == 0 else { throw failure() }
    guard let result = mysql_store_result(handle) else {
      guard mysql_errno(handle) == 0 else { throw failure() }
      return []
    }
    defer { mysql_free_result(result) }
    let columns = Int(mysql_num_fields(result))
    var rows: [[String?]] = []
    while let row = mysql_fetch_row(result), let lengths = mysql_fetch_lengths(result) {
      rows.append(
        (0..<columns).map { column in
          row[column].map { field in
            String(decoding: UnsafeRawBufferPointer(start: field, count: Int(lengths[column])), as: UTF8.self)
          }
        })
    }
    return rows
  }

  /// The statement with its parameters in it: the plain protocol has none.
  private func filled(_ text: String, _ parameters: [SQLValue]) throws(BankError) -> String {
    var filled = ""
    var rest = text[...]
    while let mark = rest.firstIndex(of: "$") {
      filled += rest[..<mark]
      let number = rest[rest.index(after: mark)...].prefix { ("0"..."9").contains($0) }
      rest = rest[number.endIndex...]
      guard let index = Int(number), parameters.indices.contains(index - 1) else {
        throw .storeRefused("mariadb: no parameter for $\(number)")
      }
      switch parameters[index - 1] {
      case .integer(let value): filled += String(value)
      case .text(let value): filled += "'\(escaped(value))'"
      }
    }
    return filled + rest
  }

  private func escaped(_ text: String) -> String {
    let bytes = Array(text.utf8)
    let room = bytes.count * 2 + 1
    let escaped = [UInt8](unsafeUninitializedCapacity: room) { target, count in
      count = bytes.withUnsafeBytes { source in
        target.withMemoryRebound(to: CChar.self) { target in
          Int(
            mysql_real_escape_string(
              handle, target.baseAddress, source.bindMemory(to: CChar.self).baseAddress, UInt(source.count)))
        }
      }
    }
    return String(decoding: escaped, as: UTF8.self)
  }

  private func failure() -> BankError {
    let code = mysql_errno(handle)
    let message = "mariadb: \(String(cString: mysql_error(handle))) (\(code))"
    // From 2000 on: the library's own, a connection that is gone; the others: too many connections, shutdown, a lock that
    // was waited for too long, a deadlock, a connection that was killed. Source: MariaDB 10.11, "MariaDB Error Codes".
    if (2000..<3000).contains(code) { isLost = true }
    return isLost || [1040, 1053, 1205, 1213, 1927].contains(code) ? .storeAway(message) : .storeRefused(message)
  }
}
