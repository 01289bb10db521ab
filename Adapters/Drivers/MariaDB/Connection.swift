import CMariaDB
import Core
import DriverKit
import IO
import Synchronization

#if canImport(Glibc)
  import Glibc
#endif

/// A statement the server refused.
struct StatementFailure: Error, Sendable {
  /// The server's number, or the client library's above 2000; 0 for the driver's own.
  ///
  /// Source: MariaDB 10.11, "MariaDB Error Codes".
  var code: UInt32
  var message: String

  static let cancelled = StatementFailure(code: 0, message: "cancelled")

  var isCancelled: Bool { code == 0 && message == Self.cancelled.message }
  var isConnectionLost: Bool { (2000...2055).contains(code) || [1053, 1927].contains(code) }
  /// A limit of ours was reached: of the statement, or of waiting for a lock.
  var isTimeout: Bool { [1205, 1317, 1969, 3024].contains(code) }

  /// The driver's error, where nothing more special is known.
  func driverError(_ what: String) -> DriverError {
    if isCancelled { return .cancelled }
    return switch code {
    case 1044, 1142, 1143, 1227, 1370:
      .permissionDenied("\(what): \(message)", needs: "the grants in docs/drivers/mariadb.md")
    case 1045, 1251, 1698, 2059, 4151: .authenticationFailed(message)
    case 1040, 1203, 1226, 1927: .unreachable("\(what): \(message)")
    case _ where isConnectionLost: .unreachable("\(what): \(message)")
    default: .queryFailed("\(what): \(message)")
    }
  }
}

/// Where a server is and as whom to talk to it; no secret in it.
struct ServerAddress: Sendable, Equatable, CustomStringConvertible {
  var host: String
  var port: UInt16
  /// A Unix socket; instead of host and port.
  var socket: String?
  var user: String
  var connectSeconds: UInt32 = 10

  var description: String { "\(socket ?? "\(host):\(port)") as \(user)" }
}

/// One connection to a server, used by one caller at a time.
///
/// The calls block and run on the pool. When its task is cancelled a statement under way ends, and the connection with
/// it: the client library can't ask for less.
final class Connection: Sendable {
  private struct Handle { var pointer: UnsafeMutablePointer<MYSQL>? }

  /// Held for the length of a statement: the library allows one thread per connection.
  private let handle: Mutex<Handle>
  /// A descriptor of our own for the connection, while it is open, for ``interrupt()``: the library closes its own when it
  /// meets an error, and the number goes to somebody else.
  private let socket: Mutex<Int32?>
  private let pool: BlockingPool
  /// The server's number for it.
  let id: UInt

  /// Packets of a server may say that they are a gigabyte long; nothing the driver asks for is.
  private static let packetLimit: UInt = 64 << 20
  /// A row of a server's log can be as long as that.
  private static let streamLimit: UInt = (1 << 30) + (1 << 20)
  private static let streamSilenceSeconds: UInt32 = 30
  private static let library: Int32 = mysql_server_init(0, nil, nil)

  private init(adopting pointer: sending UnsafeMutablePointer<MYSQL>, pool: BlockingPool) {
    id = UInt(mysql_thread_id(pointer))
    let descriptor = mysql_get_socket(pointer)
    // No child may keep a connection, and with it a hold, open.
    _ = fcntl(descriptor, F_SETFD, FD_CLOEXEC)
    let copy = fcntl(descriptor, F_DUPFD_CLOEXEC, 0)
    socket = Mutex(copy >= 0 ? copy : nil)
    handle = Mutex(Handle(pointer: pointer))
    self.pool = pool
  }

  deinit {
    handle.withLock { if let pointer = $0.pointer { mysql_close(pointer) } }
    forgetSocket()
  }

  private func forgetSocket() {
    socket.withLock { descriptor in
      if let descriptor { Glibc.close(descriptor) }
      descriptor = nil
    }
  }

  /// - Parameter isStream: The server will send its log: rows of any length, and it is never silent for long.
  static func open(
    _ address: ServerAddress, password: Secret?, pool: BlockingPool, isStream: Bool = false
  ) async throws(DriverError) -> Connection {
    try await pool.run { () throws(DriverError) -> Connection in
      guard library == 0, let pointer = mysql_init(nil) else { throw .unreachable("\(address): out of memory") }
      settle(pointer, address, isStream: isStream)
      func connect(_ password: UnsafePointer<CChar>?) -> Bool {
        mysql_real_connect(
          pointer, address.socket == nil ? address.host : nil, address.user, password, nil, UInt32(address.port),
          address.socket, 0) != nil
      }
      if let password {
        let copy = UnsafeMutablePointer<CChar>.allocate(capacity: password.count + 1)
        defer {
          explicit_bzero(copy, password.count)
          copy.deallocate()
        }
        password.withBytes { bytes in
          for (index, byte) in bytes.enumerated() { copy[index] = CChar(bitPattern: byte) }
        }
        copy[password.count] = 0
        _ = connect(copy)
      } else {
        _ = connect(nil)
      }
      if let failure = failure(of: pointer) {
        mysql_close(pointer)
        throw failure.driverError("MariaDB at \(address)")
      }
      nonisolated(unsafe) let adopted = pointer
      return Connection(adopting: adopted, pool: pool)
    }
  }

  private static func settle(_ pointer: UnsafeMutablePointer<MYSQL>, _ address: ServerAddress, isStream: Bool) {
    var seconds = address.connectSeconds
    mysql_options(pointer, MYSQL_OPT_CONNECT_TIMEOUT, &seconds)
    var (off, limit): (UInt32, UInt) = (0, isStream ? streamLimit : packetLimit)
    if isStream {
      var patience = streamSilenceSeconds
      mysql_options(pointer, MYSQL_OPT_READ_TIMEOUT, &patience)
    }
    // A hostile server could ask for files of ours.
    mysql_options(pointer, MYSQL_OPT_LOCAL_INFILE, &off)
    mysql_options(pointer, MYSQL_OPT_MAX_ALLOWED_PACKET, &limit)
    mysql_options(pointer, MYSQL_SET_CHARSET_NAME, "utf8mb4")
    var proto = UInt32((address.socket == nil ? MYSQL_PROTOCOL_TCP : MYSQL_PROTOCOL_SOCKET).rawValue)
    mysql_options(pointer, MYSQL_OPT_PROTOCOL, &proto)
    // Or for the password in clear text.
    mysql_options(
      pointer, MARIADB_OPT_RESTRICTED_AUTH,
      "mysql_native_password,client_ed25519,caching_sha2_password,sha256_password,auth_gssapi_client")
  }

  /// Runs one statement and reads what it answers.
  ///
  /// - Parameter rowLimit: What comes after so many rows is not read; the connection is of no use then.
  @discardableResult
  func run(_ statement: String, rowLimit: Int = 1_000_000) async throws(StatementFailure) -> QueryResult {
    if Task.isCancelled { throw .cancelled }
    let result = await withTaskCancellationHandler {
      await pool.run { () -> Result<QueryResult, StatementFailure> in
        do throws(StatementFailure) {
          return .success(try self.runBlocking(statement, rowLimit: rowLimit))
        } catch { return .failure(error) }
      }
    } onCancel: {
      interrupt()
    }
    if case .failure = result, Task.isCancelled { throw .cancelled }
    return try result.get()
  }

  /// Runs `body` on the pool, with the library's own handle; the connection is cut when the task is cancelled.
  func withLibrary<T: Sendable>(
    _ body: @escaping @Sendable (UnsafeMutablePointer<MYSQL>) throws(StatementFailure) -> T
  ) async throws(StatementFailure) -> T {
    if Task.isCancelled { throw .cancelled }
    let result = await withTaskCancellationHandler {
      await pool.run { () -> Result<T, StatementFailure> in
        self.handle.withLock { handle -> Result<T, StatementFailure> in
          guard let pointer = handle.pointer else {
            return .failure(StatementFailure(code: 2006, message: "the connection is closed"))
          }
          do throws(StatementFailure) { return .success(try body(pointer)) } catch { return .failure(error) }
        }
      }
    } onCancel: {
      interrupt()
    }
    if case .failure = result, Task.isCancelled { throw .cancelled }
    return try result.get()
  }

  /// Runs a statement on the caller's thread, which it blocks, whether or not the task is cancelled.
  func runBlocking(_ statement: String, rowLimit: Int = 1_000_000) throws(StatementFailure) -> QueryResult {
    let result = handle.withLock { handle -> Result<QueryResult, StatementFailure> in
      guard let pointer = handle.pointer else {
        return .failure(StatementFailure(code: 2006, message: "the connection is closed"))
      }
      do throws(StatementFailure) {
        return .success(try perform(statement, on: pointer, rowLimit: rowLimit))
      } catch { return .failure(error) }
    }
    return try result.get()
  }

  /// Runs what has to be run also when the task is cancelled; `false` if the server did not do it.
  @discardableResult
  func runToEnd(_ statement: String) async -> Bool {
    await pool.run { (try? self.runBlocking(statement)) != nil }
  }

  /// The first row, with as many values as were asked for.
  func row(_ statement: String, _ count: Int) async throws(StatementFailure) -> [String?] {
    guard let row = try await run(statement).rows.first, row.count >= count else {
      throw StatementFailure(code: 2027, message: "the server's answer has no such row")
    }
    return row
  }

  /// The single value of the first row.
  func value(_ statement: String) async throws(StatementFailure) -> String? {
    try await run(statement).rows.first?.first ?? nil
  }

  /// Cuts the connection, as if this process had died: what the server does for it ends, and its locks go.
  func interrupt() { socket.withLock { if let descriptor = $0 { shutdown(descriptor, Int32(SHUT_RDWR)) } } }

  func close() async {
    await pool.run {
      self.handle.withLock { handle in
        if let pointer = handle.pointer { mysql_close(pointer) }
        handle.pointer = nil
        self.forgetSocket()
      }
    }
  }
}

func failure(of connection: UnsafeMutablePointer<MYSQL>) -> StatementFailure? {
  let code = mysql_errno(connection)
  guard code != 0 else { return nil }
  let message = mysql_error(connection).map { String(cString: $0) } ?? ""
  return StatementFailure(code: code, message: message.split(whereSeparator: \.isNewline).joined(separator: "; "))
}

private func perform(
  _ statement: String, on connection: UnsafeMutablePointer<MYSQL>, rowLimit: Int
) throws(StatementFailure) -> QueryResult {
  let bytes = Array(statement.utf8)
  let sent = bytes.withUnsafeBytes {
    mysql_real_query(connection, $0.bindMemory(to: CChar.self).baseAddress, UInt($0.count))
  }
  if sent != 0 { throw failure(of: connection) ?? StatementFailure(code: 2000, message: "unknown error") }
  guard let result = mysql_use_result(connection) else {
    if let failure = failure(of: connection) { throw failure }
    return QueryResult(columns: [], rows: [])
  }
  let width = Int(mysql_num_fields(result))
  var outcome = QueryResult(columns: [], rows: [])
  if let fields = mysql_fetch_fields(result) {
    outcome.columns = (0..<width).map { index in
      String(
        decoding: UnsafeRawBufferPointer(start: fields[index].name, count: Int(fields[index].name_length)),
        as: UTF8.self)
    }
  }
  while let row = mysql_fetch_row(result) {
    guard outcome.rows.count < rowLimit else {
      outcome.isTruncated = true
      // To free the result reads all the rest; who closes the connection need not.
      shutdown(mysql_get_socket(connection), Int32(SHUT_RDWR))
      break
    }
    guard let lengths = mysql_fetch_lengths(result) else { break }
    outcome.rows.append(
      (0..<width).map { index in
        row[index].map {
          String(decoding: UnsafeRawBufferPointer(start: $0, count: Int(lengths[index])), as: UTF8.self)
        }
      })
  }
  let broken = outcome.isTruncated ? nil : failure(of: connection)
  mysql_free_result(result)
  if let broken { throw broken }
  return outcome
}
