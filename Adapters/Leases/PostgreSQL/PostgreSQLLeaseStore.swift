import CPQ
import Core
import IO
import StateKit
import Synchronization

/// Where leases are kept, and what must not be kept there.
package struct PostgreSQLLeaseSettings: Sendable {
  /// Such as `postgres://salvor@host:5432/leases?sslmode=verify-full`; no password in it.
  package var address: String
  /// Instead of the address's `sslrootcert`; then the server's certificate and name are checked.
  package var authorityFile: String?
  /// A certificate and its key, both in PEM in one file.
  package var certificateFile: String?
  /// Asked for each connection, so that a new one is found.
  package var password: @Sendable () async throws(AnyFailure) -> Secret? = { () async throws(AnyFailure) in nil }
  /// System identifiers of what is failed over: leases on it would fail with it.
  package var forbidden: Set<UInt64> = []
  /// The highest fences that are known from elsewhere, such as an agent's disk.
  package var floors: [SeatName: Fence] = [:]
  package var timeLimit: Duration = .seconds(2)

  package init(address: String) { self.address = address }
}

/// Leases in a PostgreSQL of their own.
///
/// A seat is a row that stays for ever, and its fence a number in it; every change is one function of the database,
/// which locks the row and reads the server's clock. See ``LeaseSchema``. What was acknowledged is flushed. A server that
/// was restored or failed over is refused until a person accepts it; so is one that has forgotten what this process saw.
package final class PostgreSQLLeaseStore: LeaseStore {
  private let settings: PostgreSQLLeaseSettings
  private let options: [(String, String)]
  private let pool: BlockingPool
  private let time: any Timekeeper
  private let randomness: any Randomness
  private let state: Mutex<Known>

  private struct Known {
    var idle: [LeaseConnection] = []
    var fences: [SeatName: Int64] = [:]
    var lineage = ""
    /// Of that lineage: how far its log was flushed.
    var flushed: Int64 = 0
  }

  private struct Answer {
    var isDone: Bool
    var fence: Fence
    var holder: Holder?
    var token: String?
    var record: [UInt8]?
    var order: [UInt8]?
  }

  package init(
    _ settings: PostgreSQLLeaseSettings, pool: BlockingPool = .shared, time: any Timekeeper = SystemTime(),
    randomness: any Randomness = SystemRandomness()
  ) throws(LeaseError) {
    (self.settings, self.pool, self.time, self.randomness) = (settings, pool, time, randomness)
    options = try Self.options(settings)
    state = Mutex(Known(fences: settings.floors.mapValues(\.value)))
  }

  // MARK: The port

  package func take(_ seat: SeatName, as holder: Holder, for period: Duration) async throws(LeaseError) -> Tenure {
    // Asked again with the same token, it is the same tenure.
    let token = String(randomness.next(), radix: 16)
    let answer = try await ask(
      "take($1, $2, $3, $4, $5)", seat, [holder.text, token, "\(max(0.001, period.seconds))"])
    guard answer.isDone else { throw .taken(seat, by: answer.holder ?? "somebody") }
    return Tenure(seat: seat, holder: holder, fence: answer.fence, token: token)
  }

  package func renew(_ tenure: Tenure) async throws(LeaseError) {
    let answer = try await ask("renew($1, $2, $3)", tenure.seat, ["\(tenure.fence)"])
    guard answer.isDone else { throw .lapsed(tenure.seat, fence: tenure.fence) }
  }

  package func release(_ tenure: Tenure) async throws(LeaseError) {
    _ = try await ask("release($1, $2, $3)", tenure.seat, ["\(tenure.fence)"])
  }

  package func view(_ seat: SeatName) async throws(LeaseError) -> SeatView {
    let answer = try await ask("view($1)", seat, nil)
    var view = SeatView(record: answer.record, order: answer.order)
    if let holder = answer.holder {
      view.tenure = Tenure(seat: seat, holder: holder, fence: answer.fence, token: answer.token ?? "")
    }
    return view
  }

  package func write(_ record: [UInt8], under tenure: Tenure) async throws(LeaseError) {
    let answer = try await ask("write($1, $2, $3, $4)", tenure.seat, ["\(tenure.fence)", Hex.encode(record)])
    guard answer.isDone else { throw .lapsed(tenure.seat, fence: tenure.fence) }
  }

  package func order(_ order: [UInt8], on seat: SeatName) async throws(LeaseError) {
    _ = try await ask("leave_order($1, $2, $3)", seat, [Hex.encode(order)])
  }

  // MARK: Asking

  /// - Parameter rest: After the seat and the highest fence known of it; `nil` if only the seat is given.
  private func ask(_ function: String, _ seat: SeatName, _ rest: [String]?) async throws(LeaseError) -> Answer {
    let known = state.withLock { (floor: $0.fences[seat] ?? 0, lineage: $0.lineage, flushed: $0.flushed) }
    let statement = "SELECT * FROM salvor_failover.\(function)"
    let parameters = [seat.text] + (rest.map { ["\(known.floor)"] + $0 } ?? [])
    let deadline = LeaseDeadline(settings.timeLimit, time)
    let row = await withTaskCancellationHandler { () async -> Result<[String?], LeaseError> in
      do throws(LeaseError) { return .success(try await send(statement, parameters, deadline)) } catch {
        return .failure(error)
      }
    } onCancel: {
      deadline.cancel()
    }
    return try understand(try row.get(), seat, known.floor, known.lineage, known.flushed)
  }

  private func send(
    _ statement: String, _ parameters: [String], _ deadline: LeaseDeadline
  ) async throws(LeaseError) -> [String?] {
    let idle = state.withLock { $0.idle.popLast() }
    if let idle {
      do throws(LeaseStatementFailure) { return try await run(statement, parameters, on: idle, deadline) } catch {
        // A server that was started again has closed what was idle; the same once more is safe.
        guard error.isConnectionLost, !Task.isCancelled else { throw failure(error) }
        state.withLock { $0.idle = [] }
      }
    }
    var secret: Secret?
    do throws(AnyFailure) { secret = try await settings.password() } catch {
      throw .unavailable(error.report.summary)
    }
    let (password, options) = (secret, options)
    do throws(LeaseStatementFailure) {
      let opened = try await pool.run { () throws(LeaseStatementFailure) in
        try LeaseConnection.open(options, password: password, by: deadline)
      }
      return try await run(statement, parameters, on: opened, deadline)
    } catch { throw failure(error) }
  }

  private func run(
    _ statement: String, _ parameters: [String], on connection: LeaseConnection, _ deadline: LeaseDeadline
  ) async throws(LeaseStatementFailure) -> [String?] {
    do throws(LeaseStatementFailure) {
      let row = try await pool.run { () throws(LeaseStatementFailure) in
        try connection.row(statement, parameters, by: deadline)
      }
      keep(connection)
      return row
    } catch {
      if !error.isConnectionLost { keep(connection) }
      throw error
    }
  }

  private func keep(_ connection: LeaseConnection) {
    state.withLock { if $0.idle.count < 4 { $0.idle.append(connection) } }
  }

  private func failure(_ failure: LeaseStatementFailure) -> LeaseError {
    if Task.isCancelled { return .cancelled }
    let said = "\(name): \(failure.message)"
    switch failure.code {
    case LeaseSchema.isUnsuited: return .unsuited(said)
    case LeaseSchema.hasForgotten: return .forgetful(said)
    // No such schema, function or database; no right to use it.
    case "3F000", "42883", "42P01", "3D000", "42501":
      return .unsuited("\(said); `salvor failover lease-schema` prepares it")
    default: return .unavailable(said)
    }
  }

  private func understand(
    _ row: [String?], _ seat: SeatName, _ floor: Int64, _ lineage: String, _ flushed: Int64
  ) throws(LeaseError) -> Answer {
    guard row.count == 8, let isDone = row[0], let fence = row[1].flatMap({ Int64($0) }), let now = row[6],
      let position = row[7].flatMap({ Int64($0) })
    else { throw .corrupt("\(name): not what its functions answer") }
    if let server = now.split(separator: "-").first.flatMap({ UInt64($0) }), settings.forbidden.contains(server) {
      throw .unsuited("\(name) is the very database that is failed over")
    }
    guard fence >= floor else { throw .forgetful("\(name): the fence of \(seat) was \(floor) and is \(fence)") }
    // The same history, shorter than it was: a copy of the server's files from before.
    if now == lineage, position < flushed {
      throw .forgetful("\(name): its log was flushed up to \(flushed), and ends at \(position)")
    }
    state.withLock { known in
      known.fences[seat] = max(known.fences[seat] ?? 0, fence)
      if known.lineage != now { (known.lineage, known.flushed) = (now, 0) }
      known.flushed = max(known.flushed, position)
    }
    return Answer(
      isDone: isDone == "t", fence: Fence(fence), holder: row[2].map { Holder($0) }, token: row[3],
      record: try bytes(row[4]), order: try bytes(row[5]))
  }

  private func bytes(_ text: String?) throws(LeaseError) -> [UInt8]? {
    guard let text else { return nil }
    guard let bytes = Hex.decode(text) else { throw .corrupt("\(name): not in hexadecimal digits") }
    return bytes
  }

  // MARK: The address

  private var name: String {
    func value(_ key: String) -> String? { options.first { $0.0 == key }?.1 }
    return "PostgreSQL at \(value("host") ?? "localhost"):\(value("port") ?? "5432")/\(value("dbname") ?? "")"
  }

  /// `host:port`, for comparing with members.
  package static func place(_ address: String) throws(LeaseError) -> String {
    let found = try parsed(address)
    return "\(found["hostaddr"] ?? found["host"] ?? "localhost"):\(found["port"] ?? "5432")"
  }

  private static let allowed: Set<String> = [
    "host", "hostaddr", "port", "user", "dbname", "sslmode", "sslrootcert", "sslcert", "sslkey", "sslcrl",
  ]

  private static func parsed(_ address: String) throws(LeaseError) -> [String: String] {
    var message: UnsafeMutablePointer<CChar>?
    guard let first = PQconninfoParse(address, &message) else {
      PQfreemem(message)
      // What libpq says may repeat a password.
      throw .unsuited("its address is no postgres://user@host:port/database")
    }
    defer { PQconninfoFree(first) }
    var found: [String: String] = [:]
    var next = first
    while let keyword = next.pointee.keyword {
      if let value = next.pointee.val { found[String(cString: keyword)] = String(cString: value) }
      next += 1
    }
    if found["password"] != nil { throw .unsuited("its address has a password in it; give it by reference") }
    if let other = found.keys.sorted().first(where: { !allowed.contains($0) }) {
      throw .unsuited("its address sets '\(other)', which it may not")
    }
    if found["host"]?.contains(",") == true || found["hostaddr"]?.contains(",") == true {
      throw .unsuited("its address names several servers; a lease store is one")
    }
    return found
  }

  private static func options(_ settings: PostgreSQLLeaseSettings) throws(LeaseError) -> [(String, String)] {
    var found = try parsed(settings.address)
    if let file = settings.authorityFile {
      found["sslrootcert"] = file
      found["sslmode"] = found["sslmode"] ?? "verify-full"
    }
    if let file = settings.certificateFile {
      found["sslcert"] = file
      found["sslkey"] = file
    }
    found["application_name"] = "salvor-lease"
    found["client_encoding"] = "UTF8"
    return found.sorted { $0.key < $1.key }.map { ($0.key, $0.value) }
  }
}
