import Core
import DriverKit
import IO

/// Makes a server's commits wait and names its place in the binary log, again and again, over connections that stay.
actor MariaDBMarking: MarkSession {
  private let driver: MariaDBDriver
  private var control: Connection?
  private var locks: Connection?
  private var facts: ServerFacts?
  private var hold: CommitHold?

  init(_ driver: MariaDBDriver) { self.driver = driver }

  func prepare() async throws(DriverError) {
    let control = try await driver.connect()
    self.control = control
    let facts = try await ServerFacts.read(control)
    try facts.requireCapturable()
    self.facts = facts
    if facts.isHeld { locks = try await driver.connect() }
  }

  func hold(limit: Duration) async throws(DriverError) {
    guard let facts else { throw .holdImpossible("the session is not prepared") }
    guard facts.isHeld else { return }
    guard let locks else { throw .holdImpossible("the session is not prepared") }
    let hold = CommitHold(locks)
    try await hold.take(limit: limit, time: driver.environment.time)
    self.hold = hold
  }

  func mark() async throws(DriverError) -> LogPosition {
    guard let control, let facts else { throw .holdImpossible("the session is not prepared") }
    guard facts.isLogged else { throw .unsupported("the server keeps no binary log: set log_bin") }
    let standing: Standing
    do throws(StatementFailure) { standing = try await Standing.read(control) } catch {
      throw error.driverError("naming the position")
    }
    return try await driver.position(of: standing, facts)
  }

  func release() async -> Bool {
    let held = hold
    hold = nil
    return await held?.release() ?? false
  }

  func close() async {
    _ = await release()
    await locks?.close()
    await control?.close()
    (locks, control) = (nil, nil)
  }
}

/// Where a server stands in its binary log.
struct Standing: Sendable {
  var position: BinlogPosition
  /// What the binary log holds, per domain.
  var gtid: String
  /// What the server itself had replicated from others.
  var replicated: String

  private static let questions = "SELECT @@GLOBAL.gtid_binlog_pos, @@GLOBAL.gtid_slave_pos"

  static func read(_ control: Connection) async throws(StatementFailure) -> Standing {
    // Two questions, and where nobody is held transactions commit between them: what is the same before and after the
    // position was told belongs to it.
    var status: [String?] = []
    var sets = try await control.row(questions, 2)
    for attempt in 1... {
      let before = sets
      status = try await control.row("SHOW MASTER STATUS", 2)
      sets = try await control.row(questions, 2)
      if sets == before { break }
      if attempt == 3, let file = status[0], let offset = status[1] {
        // Exact as well, but it reads the file as far as that.
        sets[0] = try await control.row("SELECT BINLOG_GTID_POS(\(RowDigest.text(file)), \(offset))", 1)[0]
        break
      }
    }
    guard let file = status[0], let offset = status[1].flatMap({ Int64($0) }),
      let position = BinlogPosition(file: file, offset: offset), GTIDList(sets[0] ?? "") != nil
    else { throw StatementFailure(code: 2027, message: "the server did not name its position") }
    return Standing(position: position, gtid: sets[0] ?? "", replicated: sets[1] ?? "")
  }
}

extension MariaDBDriver {
  func marking() -> (any MarkSession)? { MariaDBMarking(self) }

  func binaryLog(_ facts: ServerFacts) -> BinaryLog {
    BinaryLog(directory: Files.parent(of: facts.variables["log_bin_basename"] ?? ""))
  }

  /// With when the file was begun, and whose it is.
  func position(of standing: Standing, _ facts: ServerFacts) async throws(DriverError) -> LogPosition {
    let (log, file) = (binaryLog(facts), standing.position.file)
    let begun = try await blocking { () throws(DriverError) in try log.begun(file) }
    return LogPosition(
      kind: "binlog", value: standing.position.description,
      details: [
        "gtid": standing.gtid, "stream": MariaDBFollower.stream(of: facts.variables["server_id"] ?? ""),
        "begun": String(begun),
      ])
  }
}
