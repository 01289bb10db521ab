import CPQ
import Core
import Synchronization

#if canImport(Glibc)
  import Glibc
#endif

/// Why a statement has no answer.
struct LeaseStatementFailure: Error {
  /// Five characters; empty if there is no connection any more.
  var code: String
  var message: String

  var isConnectionLost: Bool { code.isEmpty || code.hasPrefix("08") || code.hasPrefix("57P") }
}

/// When who waits gives up; and whether who asked has.
final class LeaseDeadline: Sendable {
  private let nanoseconds: Int64
  private let time: any Timekeeper
  private let isCancelled = Mutex(false)

  init(_ limit: Duration, _ time: any Timekeeper) {
    (self.time, nanoseconds) = (time, time.monotonicNanoseconds() + limit.wholeNanoseconds)
  }

  func cancel() { isCancelled.withLock { $0 = true } }

  func check() throws(LeaseStatementFailure) {
    if isCancelled.withLock({ $0 }) { throw LeaseStatementFailure(code: "", message: "cancelled") }
    guard time.monotonicNanoseconds() < nanoseconds else {
      throw LeaseStatementFailure(code: "", message: "no answer within its time")
    }
  }

  /// Blocks until something can be read or written, or for a tenth of a second.
  func wait(for events: Int32, on connection: OpaquePointer) throws(LeaseStatementFailure) {
    try check()
    var descriptor = pollfd(fd: PQsocket(connection), events: Int16(events), revents: 0)
    _ = poll(&descriptor, 1, 100)
  }
}

/// One connection, for one caller at a time; nothing on it waits longer than its deadline says.
final class LeaseConnection: Sendable {
  private let handle: Mutex<OpaquePointer?>

  private init(_ pointer: sending OpaquePointer) { handle = Mutex(pointer) }

  deinit { handle.withLock { if let pointer = $0 { PQfinish(pointer) } } }

  /// Blocks.
  static func open(
    _ options: [(String, String)], password: Secret?, by deadline: LeaseDeadline
  ) throws(LeaseStatementFailure) -> LeaseConnection {
    guard let pointer = start(options, password) else {
      throw LeaseStatementFailure(code: "", message: "out of memory")
    }
    do throws(LeaseStatementFailure) {
      var state = PGRES_POLLING_WRITING
      while state != PGRES_POLLING_OK {
        if PQstatus(pointer) == CONNECTION_BAD { throw lost(pointer) }
        try deadline.wait(for: state == PGRES_POLLING_READING ? POLLIN : POLLOUT, on: pointer)
        // Polling before the socket is ready would block.
        var descriptor = pollfd(
          fd: PQsocket(pointer), events: Int16(state == PGRES_POLLING_READING ? POLLIN : POLLOUT), revents: 0)
        guard poll(&descriptor, 1, 0) != 0 else { continue }
        state = PQconnectPoll(pointer)
        if state == PGRES_POLLING_FAILED { throw lost(pointer) }
      }
    } catch {
      PQfinish(pointer)
      throw error
    }
    PQsetnonblocking(pointer, 1)
    // Notices would go to standard error.
    PQsetNoticeProcessor(pointer, { _, _ in }, nil)
    nonisolated(unsafe) let adopted = pointer
    return LeaseConnection(adopted)
  }

  private static func start(_ options: [(String, String)], _ password: Secret?) -> OpaquePointer? {
    var secret: [CChar] = []
    if let password {
      secret = password.withBytes { $0.map { CChar(bitPattern: $0) } } + [0]
    }
    defer { secret.withUnsafeMutableBytes { if let base = $0.baseAddress { explicit_bzero(base, $0.count) } } }
    let names = options.map { strdup($0.0) } + (password == nil ? [] : [strdup("password")])
    let values = options.map { strdup($0.1) }
    defer { for pointer in names + values { free(pointer) } }
    return secret.withUnsafeBufferPointer { secret in
      var all = values.map { UnsafePointer<CChar>($0) }
      if password != nil { all.append(secret.baseAddress) }
      return PQconnectStartParams(names.map { UnsafePointer<CChar>($0) } + [nil], all + [nil], 0)
    }
  }

  /// Runs one statement, a transaction of its own, and returns its only row once that is committed. Blocks.
  ///
  /// After a failure without a code the connection is of no use, and whether the statement got through is not known.
  func row(
    _ statement: String, _ parameters: [String], by deadline: LeaseDeadline
  ) throws(LeaseStatementFailure) -> [String?] {
    let result = handle.withLock { pointer -> Result<[String?], LeaseStatementFailure> in
      guard let pointer else { return .failure(LeaseStatementFailure(code: "", message: "the connection is closed")) }
      do throws(LeaseStatementFailure) {
        return .success(try Self.row(statement, parameters, pointer, deadline))
      } catch { return .failure(error) }
    }
    return try result.get()
  }

  private static func row(
    _ statement: String, _ parameters: [String], _ pointer: OpaquePointer, _ deadline: LeaseDeadline
  ) throws(LeaseStatementFailure) -> [String?] {
    let copies = parameters.map { strdup($0) }
    defer { for copy in copies { free(copy) } }
    let values = copies.map { UnsafePointer<CChar>($0) }
    guard PQsendQueryParams(pointer, statement, Int32(values.count), nil, values, nil, nil, 0) == 1 else {
      throw lost(pointer)
    }
    while true {
      let left = PQflush(pointer)
      if left == 0 { break }
      if left < 0 { throw lost(pointer) }
      try deadline.wait(for: POLLIN | POLLOUT, on: pointer)
      guard PQconsumeInput(pointer) == 1 else { throw lost(pointer) }
    }
    var row: [String?] = []
    var failure: LeaseStatementFailure?
    // To the very end: a commit that fails is said after the rows.
    while true {
      while PQisBusy(pointer) == 1 {
        try deadline.wait(for: POLLIN, on: pointer)
        guard PQconsumeInput(pointer) == 1 else { throw lost(pointer) }
      }
      guard let result = PQgetResult(pointer) else { break }
      defer { PQclear(result) }
      switch PQresultStatus(result) {
      case PGRES_TUPLES_OK:
        if PQntuples(result) == 1 {
          row = (0..<PQnfields(result)).map { column in
            PQgetisnull(result, 0, column) == 1 ? nil : PQgetvalue(result, 0, column).map { String(cString: $0) }
          }
        }
      case PGRES_COMMAND_OK, PGRES_EMPTY_QUERY: break
      default:
        // 67 is the letter C: the field with the code. 77, M, has the message alone.
        let code = PQresultErrorField(result, 67).map { String(cString: $0) } ?? ""
        let said = PQresultErrorField(result, 77).map { String(cString: $0) } ?? text(PQresultErrorMessage(result))
        if failure == nil { failure = LeaseStatementFailure(code: code, message: said) }
      }
    }
    if let failure { throw failure }
    if PQstatus(pointer) == CONNECTION_BAD { throw lost(pointer) }
    return row
  }

  private static func lost(_ pointer: OpaquePointer) -> LeaseStatementFailure {
    LeaseStatementFailure(code: "", message: text(PQerrorMessage(pointer)))
  }

  private static func text(_ pointer: UnsafePointer<CChar>?) -> String {
    guard let pointer else { return "" }
    return String(cString: pointer).split(whereSeparator: \.isNewline).joined(separator: "; ")
  }
}
