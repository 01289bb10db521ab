import CPQ
import Core
import DriverKit

#if canImport(Glibc)
  import Glibc
#endif

extension ServerAddress {
  /// One look at a server, as a client would; blocks, never longer than `limit`, whatever the other side does.
  func look(password: Secret?, within limit: Duration, time: any Timekeeper) -> Sight {
    let deadline = time.monotonicNanoseconds() + limit.wholeNanoseconds
    guard let pointer = begin(password: password) else { return .silent }
    // Never by asking to cancel, which would itself wait for who doesn't answer.
    defer { PQfinish(pointer) }
    func isReady(_ events: Int32) -> Bool {
      let left = deadline - time.monotonicNanoseconds()
      var descriptor = pollfd(fd: PQsocket(pointer), events: Int16(events), revents: 0)
      return left > 0 && descriptor.fd >= 0 && poll(&descriptor, 1, Int32(left / 1_000_000) + 1) > 0
    }
    // As if it had asked to write: before the other side has answered, it can't be told from one that has taken us.
    var step = PGRES_POLLING_WRITING
    while PQstatus(pointer) != CONNECTION_BAD, step != PGRES_POLLING_OK {
      guard isReady(step == PGRES_POLLING_READING ? Int32(POLLIN) : Int32(POLLOUT)) else { return .silent }
      step = PQconnectPoll(pointer)
    }
    guard PQstatus(pointer) == CONNECTION_OK else {
      let said = PQerrorMessage(pointer).map { String(cString: $0) } ?? ""
      if said.contains("Connection refused") { return .refused }
      return said.contains("starting up") || said.contains("shutting down") ? .answers : .silent
    }
    guard PQsendQuery(pointer, "SELECT pg_is_in_recovery()") == 1 else { return .silent }
    while PQisBusy(pointer) == 1 {
      guard isReady(Int32(POLLIN)), PQconsumeInput(pointer) == 1 else { return .silent }
    }
    guard let result = PQgetResult(pointer) else { return .silent }
    defer { PQclear(result) }
    guard PQresultStatus(result) == PGRES_TUPLES_OK, PQntuples(result) == 1 else { return .silent }
    return String(cString: PQgetvalue(result, 0, 0)) == "f" ? .serves : .answers
  }
}
