import Core
import Foundation
import IO
import Synchronization

/// Clients of a room's servers, each on a thread of its own, and what they saw.
///
/// A third of the operations appends, a third reads, writes and swaps registers, a third moves money.
package final class RigClients: Sendable {
  package struct Client: Sendable {
    package var name: String
    /// As libpq takes them, tried one after the other. It stays with a server until that ends the connection.
    package var targets: [String]

    package init(_ name: String, _ targets: [String]) { (self.name, self.targets) = (name, targets) }
  }

  private struct State {
    var history: [Operation] = []
    var isEnded = false
    var running = 0
    /// What the clients believe the registers hold, for swaps that may succeed.
    var beliefs: [Int: Int64] = [:]
  }

  package static let accounts = 10
  package static let money: Int64 = 10_000
  package static let tables = """
    CREATE TABLE appends (key int, value bigint, PRIMARY KEY (key, value));
    CREATE TABLE registers (key int PRIMARY KEY, value bigint NOT NULL);
    INSERT INTO registers SELECT key, 0 FROM generate_series(0, 4095) key;
    CREATE TABLE accounts (id int PRIMARY KEY, balance bigint NOT NULL);
    INSERT INTO accounts SELECT id, 1000 FROM generate_series(0, 9) id;
    """

  private let state = Mutex(State())
  private let host: RigHost
  private let seed: UInt64
  private let limit: Duration
  private let pause: Duration
  private let began: Int64
  private let time = SystemTime()

  /// Starts them at once.
  ///
  /// - Parameters:
  ///   - limit: How long one waits for an acknowledgement before it gives up.
  ///   - pause: Between two operations of a client.
  package init(
    _ clients: [Client], on host: RigHost, seed: UInt64, limit: Duration = .seconds(4),
    pause: Duration = .milliseconds(5)
  ) {
    (self.host, self.seed, self.limit, self.pause) = (host, seed, limit, pause)
    began = time.monotonicNanoseconds()
    state.withLock { $0.running = clients.count }
    for (index, client) in clients.enumerated() {
      let thread = Thread { [self] in
        run(client, index)
        state.withLock { $0.running -= 1 }
      }
      thread.name = "salvor-client"
      thread.stackSize = 1 << 20
      thread.start()
    }
  }

  /// Ends them, and gives what they saw. Blocks for as long as an operation may take.
  package func end() -> [Operation] {
    state.withLock { $0.isEnded = true }
    while state.withLock({ $0.running > 0 }) { poll(nil, 0, 5) }
    return state.withLock { $0.history }
  }

  /// Acknowledged writes that began after `moment`, on the clock of ``SystemTime``, the first first.
  package func acknowledged(after moment: Int64) -> [Operation] {
    state.withLock { state in
      state.history.filter { $0.outcome == .ok && $0.isWrite && $0.end > moment }
    }.sorted { $0.end < $1.end }
  }

  /// The first acknowledged write that began after `moment`; looks at what came in since, not at all there is.
  ///
  /// - Parameter address: Of a server whose acknowledgements don't count: one that is killed may still give one.
  package func firstAcknowledged(begunAfter moment: Int64, butBy address: String? = nil) -> Operation? {
    state.withLock { state in
      var first: Operation?
      // Kept in the order they ended.
      for operation in state.history.reversed() {
        if operation.end < moment { break }
        if operation.outcome == .ok, operation.isWrite, operation.start > moment,
          address == nil || operation.server != address
        {
          first = operation
        }
      }
      return first
    }
  }

  /// One more, of a client that believes in a member of its own.
  func append(_ value: Int64, at member: String, _ room: FailoverRoom) {
    let action = Operation.Action.append(key: 9, value: value)
    let start = time.monotonicNanoseconds()
    let target = "host=\(room.network[member].address) port=5432"
    guard let rows = try? ask(statement(action), at: target, from: host, within: .seconds(1)) else { return }
    var operation = Operation(
      client: "of \(member)", action: action, start: start, end: time.monotonicNanoseconds(), outcome: .ok)
    acknowledge(&operation, rows)
    let seen = operation
    state.withLock { $0.history.append(seen) }
  }

  package var history: [Operation] { state.withLock { $0.history } }

  // MARK: One client

  private func run(_ client: Client, _ index: Int) {
    guard (try? host.enter()) != nil else { return }
    let chance = SeededRandomness(seed: seed &+ UInt64(index) &* 0x1000_0001)
    var connection: RigConnection?
    var number: Int64 = 0
    var tries = 0
    while !state.withLock({ $0.isEnded }) {
      if connection == nil {
        connection = RigConnection(client.targets[tries % client.targets.count], time: time)
        tries += 1
      }
      guard let open = connection else {
        pauseFor(.milliseconds(30))
        continue
      }
      number += 1
      let action = next(chance, Int64(index + 1) << 40 | number)
      let start = time.monotonicNanoseconds()
      let answer = open.run(statement(action), within: limit)
      let end = time.monotonicNanoseconds()
      var operation = Operation(client: client.name, action: action, start: start, end: end, outcome: .unknown)
      switch answer {
      case .rows(let rows): acknowledge(&operation, rows)
      case .refused(let why):
        (operation.outcome, operation.why) = (.fail, why)
        // A server that takes no writes isn't the one this client looks for.
        if why.contains("read-only") || why.contains("recovery") { connection = nil }
      case .unknown(let why):
        operation.why = why
        connection = nil
      }
      let seen = operation
      state.withLock { state in
        state.history.append(seen)
        switch seen.action {
        case .read(let key, let value?): state.beliefs[key] = value
        case .write(let key, let value): if seen.outcome == .ok { state.beliefs[key] = value }
        case .swap(let key, _, _, let found?): state.beliefs[key] = found
        default: break
        }
      }
      pauseFor(pause)
    }
  }

  private func pauseFor(_ duration: Duration) { poll(nil, 0, Int32(duration.wholeNanoseconds / 1_000_000)) }

  /// Registers change every two seconds, so that what nobody can say of has few neighbours.
  private func register(_ chance: SeededRandomness) -> Int {
    let era = Int((time.monotonicNanoseconds() - began) / 2_000_000_000)
    return (era * 2 + chance.below(2)) % 4096
  }

  private func next(_ chance: SeededRandomness, _ value: Int64) -> Operation.Action {
    switch chance.below(12) {
    case 0..<5: return .append(key: chance.below(8), value: value)
    case 5..<9:
      let key = register(chance)
      switch chance.below(3) {
      case 0: return .read(key: key, value: nil)
      case 1: return .write(key: key, value: value)
      default:
        let old = state.withLock { $0.beliefs[key] } ?? 0
        return .swap(key: key, old: old, new: value, found: nil)
      }
    case 9..<11:
      let from = chance.below(Self.accounts)
      let to = (from + 1 + chance.below(Self.accounts - 1)) % Self.accounts
      return .transfer(from: from, to: to, amount: Int64(1 + chance.below(9)))
    default: return .sum(nil)
    }
  }

  /// Says who it was and under which timeline, beside what was asked.
  private static let who = "host(inet_server_addr()), substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)"

  private func statement(_ action: Operation.Action) -> String {
    switch action {
    case .append(let key, let value): "INSERT INTO appends VALUES (\(key), \(value)) RETURNING \(Self.who)"
    // Written, so that it waits for standbys as writes do: a read alone may be stale.
    case .read(let key, _): "UPDATE registers SET value = value WHERE key = \(key) RETURNING \(Self.who), value"
    case .write(let key, let value):
      "UPDATE registers SET value = \(value) WHERE key = \(key) RETURNING \(Self.who), value"
    case .swap(let key, let old, let new, _):
      "UPDATE registers SET value = CASE WHEN value = \(old) THEN \(new) ELSE value END WHERE key = \(key) RETURNING \(Self.who), value"
    case .transfer(let from, let to, let amount):
      "UPDATE accounts SET balance = balance + CASE id WHEN \(from) THEN -\(amount) ELSE \(amount) END WHERE id IN (\(from), \(to)) RETURNING \(Self.who)"
    case .sum: "SELECT host(inet_server_addr()), NULL, sum(balance) FROM accounts"
    }
  }

  private func acknowledge(_ operation: inout Operation, _ rows: [[String?]]) {
    guard let row = rows.first, row.count >= 2 else {
      (operation.outcome, operation.why) = (.fail, "no row was touched")
      return
    }
    operation.outcome = .ok
    operation.server = row[0]
    operation.epoch = row[1].flatMap { Int64($0, radix: 16) }
    let value = row.count > 2 ? row[2].flatMap { Int64($0) } : nil
    switch operation.action {
    case .read(let key, _): operation.action = .read(key: key, value: value)
    case .swap(let key, let old, let new, _): operation.action = .swap(key: key, old: old, new: new, found: value)
    case .sum: operation.action = .sum(value)
    default: break
    }
  }
}

/// Asks a server from a host, on a thread of its own. Blocks.
package func ask(
  _ statement: String, at target: String, from host: RigHost, within limit: Duration = .seconds(5)
) throws(SystemFailure) -> [[String?]] {
  let slot = AnswerSlot()
  let thread = Thread { slot.answer.withLock { $0 = answer(statement, target, host, limit) } }
  thread.start()
  while true {
    switch slot.answer.withLock({ $0 }) {
    case nil: poll(nil, 0, 2)
    case .rows(let rows)?: return rows
    case .refused(let why)?, .unknown(let why)?:
      throw SystemFailure("ask", path: "\(target): \(why)", number: EIO)
    }
  }
}

private final class AnswerSlot: Sendable { let answer = Mutex<RigConnection.Answer?>(nil) }

private func answer(_ statement: String, _ target: String, _ host: RigHost, _ limit: Duration) -> RigConnection.Answer {
  guard (try? host.enter()) != nil else { return .refused("can't enter \(host.name)") }
  guard let connection = RigConnection(target, time: SystemTime()) else { return .refused("no connection") }
  return connection.run(statement, within: limit)
}

/// The first bytes a server answers, asked from a host. Blocks, two seconds at most; for what is
/// ordered, twenty.
func exchange(_ words: String, address: String, port: UInt16, from host: RigHost) throws(SystemFailure) -> String {
  let slot = TextSlot()
  let thread = Thread {
    let text = request(words, address, port, host)
    slot.text.withLock { $0 = .some(text) }
  }
  thread.start()
  while true {
    if let text = slot.text.withLock({ $0 }) { return text }
    poll(nil, 0, 1)
  }
}

private final class TextSlot: Sendable { let text = Mutex<String?>(nil) }

private func request(_ text: String, _ address: String, _ port: UInt16, _ host: RigHost) -> String {
  guard (try? host.enter()) != nil else { return "" }
  let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue | SOCK_NONBLOCK.rawValue), 0)
  guard descriptor >= 0 else { return "" }
  defer { close(descriptor) }
  var target = sockaddr_in()
  target.sin_family = sa_family_t(AF_INET)
  target.sin_addr.s_addr = inet_addr(address)
  target.sin_port = port.bigEndian
  _ = withUnsafePointer(to: &target) { pointer in
    pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
      connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
    }
  }
  var look = pollfd(fd: descriptor, events: Int16(POLLOUT), revents: 0)
  guard poll(&look, 1, 1000) > 0 else { return "" }
  let words = Array(text.utf8)
  guard send(descriptor, words, words.count, Int32(MSG_NOSIGNAL)) == words.count else { return "" }
  look.events = Int16(POLLIN)
  guard poll(&look, 1, text.hasPrefix("POST") ? 20_000 : 1000) > 0 else { return "" }
  var buffer = [UInt8](repeating: 0, count: 4096)
  let count = recv(descriptor, &buffer, buffer.count, 0)
  return String(decoding: buffer[..<max(0, count)], as: UTF8.self)
}
