import CPQ
import Core

#if canImport(Glibc)
  import Glibc
#endif

/// A client's connection to PostgreSQL that never waits longer than it was told. For one thread.
final class RigConnection {
  enum Answer: Sendable {
    /// Rows of the statement, acknowledged and without a doubt.
    case rows([[String?]])
    /// The server took nothing of it.
    case refused(String)
    /// It may have happened.
    case unknown(String)
  }

  private let pointer: OpaquePointer
  private let time: any Timekeeper
  private var hasWarning = false

  /// - Parameter target: Such as `host=10.77.0.1 port=5432`.
  init?(_ target: String, time: any Timekeeper) {
    self.time = time
    let opened = PQconnectStart(
      target + " user=postgres dbname=postgres sslmode=disable gssencmode=disable connect_timeout=2 keepalives_idle=2"
        + " keepalives_interval=1 keepalives_count=3 client_encoding=UTF8")
    guard let opened else { return nil }
    pointer = opened
    let deadline = time.monotonicNanoseconds() + 1_500_000_000
    // As if it had asked to write.
    var step = PGRES_POLLING_WRITING
    while PQstatus(pointer) != CONNECTION_BAD, step != PGRES_POLLING_OK {
      guard isReady(Int16(step == PGRES_POLLING_READING ? POLLIN : POLLOUT), until: deadline) else { return nil }
      step = PQconnectPoll(pointer)
    }
    guard PQstatus(pointer) == CONNECTION_OK else { return nil }
    PQsetNoticeReceiver(
      pointer,
      { context, _ in
        guard let context else { return }
        Unmanaged<RigConnection>.fromOpaque(context).takeUnretainedValue().hasWarning = true
      }, Unmanaged.passUnretained(self).toOpaque())
  }

  deinit { PQfinish(pointer) }

  private func isReady(_ events: Int16, until deadline: Int64) -> Bool {
    var look = pollfd(fd: PQsocket(pointer), events: events, revents: 0)
    let left = deadline - time.monotonicNanoseconds()
    return left > 0 && look.fd >= 0 && poll(&look, 1, Int32(left / 1_000_000) + 1) > 0
  }

  /// One statement, a transaction of its own. After anything but rows and refusals the connection is of no more use.
  func run(_ statement: String, within limit: Duration) -> Answer {
    let deadline = time.monotonicNanoseconds() + limit.wholeNanoseconds
    hasWarning = false
    guard PQsendQuery(pointer, statement) == 1 else { return .unknown(said) }
    var answer: Answer?
    while true {
      while PQisBusy(pointer) == 1 {
        guard isReady(Int16(POLLIN), until: deadline) else { return .unknown("no answer within \(limit.brief)") }
        guard PQconsumeInput(pointer) == 1 else { return .unknown(said) }
      }
      guard let result = PQgetResult(pointer) else { break }
      defer { PQclear(result) }
      switch PQresultStatus(result) {
      case PGRES_TUPLES_OK:
        answer = .rows(
          (0..<PQntuples(result)).map { row in
            (0..<PQnfields(result)).map { column in
              PQgetisnull(result, row, column) == 1 ? nil : String(cString: PQgetvalue(result, row, column))
            }
          })
      case PGRES_COMMAND_OK: answer = .rows([])
      default:
        let severity = PQresultErrorField(result, Int32(UInt8(ascii: "V"))).map { String(cString: $0) } ?? ""
        let text = String(cString: PQresultErrorMessage(result)).split(separator: "\n").first.map(String.init) ?? ""
        // A connection that is ended may have been ended while its commit waited.
        answer = severity == "ERROR" ? .refused(text) : .unknown(text)
      }
    }
    // A warning says that the commit is only on this server: nothing was promised.
    if case .rows = answer, hasWarning { return .unknown("committed with a warning") }
    return answer ?? .unknown(said)
  }

  private var said: String {
    String(cString: PQerrorMessage(pointer)).split(separator: "\n").first.map(String.init) ?? "the connection is lost"
  }
}
