import Core
import Foundation
import IO
import Synchronization

#if canImport(Glibc)
  import Glibc
#endif

/// What happens to packets from one host to another.
package struct NetworkRule: Sendable, Equatable, Codable {
  /// Of a thousand packets so many are dropped; 1000 is a cut.
  package var lossThousandths = 0
  package var delayMicroseconds: Int64 = 0
  /// On top, evenly between zero and this. Packets of one pair stay in order.
  package var jitterMicroseconds: Int64 = 0

  package init(lossThousandths: Int = 0, delayMicroseconds: Int64 = 0, jitterMicroseconds: Int64 = 0) {
    (self.lossThousandths, self.delayMicroseconds) = (lossThousandths, delayMicroseconds)
    self.jitterMicroseconds = jitterMicroseconds
  }

  package static let open = NetworkRule()
  package static let cut = NetworkRule(lossThousandths: 1000)
}

/// What a switch does with one packet; pure but for its chance, which a seed gives.
package struct PacketRules: Sendable {
  package enum Fate: Sendable, Equatable {
    case drop
    case pass
    /// To be handed over at that time.
    case wait(untilNanoseconds: Int64)
  }

  /// By sender, then receiver.
  private var rules: [[NetworkRule]]
  /// When the last packet of a pair that waits is handed over: none after it may come before it.
  private var last: [[Int64]]
  private let chance: SeededRandomness

  package init(hosts: Int, seed: UInt64) {
    rules = Array(repeating: Array(repeating: .open, count: hosts), count: hosts)
    last = Array(repeating: Array(repeating: 0, count: hosts), count: hosts)
    chance = SeededRandomness(seed: seed)
  }

  package subscript(from: Int, to: Int) -> NetworkRule {
    get { rules[from][to] }
    set { rules[from][to] = newValue }
  }

  package mutating func fate(from: Int, to: Int, at now: Int64) -> Fate {
    let rule = rules[from][to]
    if rule.lossThousandths > 0 {
      if rule.lossThousandths >= 1000 || chance.below(1000) < rule.lossThousandths { return .drop }
    }
    var delay = rule.delayMicroseconds * 1000
    if rule.jitterMicroseconds > 0 { delay += Int64(chance.below(Int(rule.jitterMicroseconds) + 1)) * 1000 }
    let due = max(now + delay, last[from][to])
    if due <= now { return .pass }
    last[from][to] = due
    return .wait(untilNanoseconds: due)
  }
}

/// The network between hosts of a room: one thread that takes IP packets from every host's interface and hands each to
/// whom it is for, if the rules let it.
package final class NetworkSwitch: Sendable {
  package struct Port: Sendable {
    package var descriptor: Int32
    /// In host order.
    package var address: UInt32

    package init(descriptor: Int32, address: UInt32) { (self.descriptor, self.address) = (descriptor, address) }
  }

  package struct Counts: Sendable, Equatable {
    package var passed = 0
    package var dropped = 0
    /// For want of room.
    package var overflowed = 0
  }

  private struct State {
    var rules: PacketRules
    var counts = Counts()
    var isEnded = false
    var isDone = false
  }

  private let ports: [Port]
  private let state: Mutex<State>
  /// What is written into the second makes the thread look up.
  private let wake: (read: Int32, write: Int32)

  /// Hands packets on until ``end()``.
  package init(_ ports: [Port], seed: UInt64) throws(SystemFailure) {
    self.ports = ports
    var ends: [Int32] = [0, 0]
    guard socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0, &ends) == 0 else {
      throw SystemFailure("socketpair")
    }
    wake = (ends[0], ends[1])
    state = Mutex(State(rules: PacketRules(hosts: ports.count, seed: seed)))
    let thread = Thread { [self] in run() }
    thread.name = "salvor-switch"
    thread.start()
  }

  deinit {
    close(wake.read)
    close(wake.write)
  }

  package var counts: Counts { state.withLock { $0.counts } }

  package func change(_ body: (inout PacketRules) -> Void) { state.withLock { body(&$0.rules) } }

  /// From then on the descriptors are the caller's alone. Blocks briefly.
  package func end() {
    state.withLock { $0.isEnded = true }
    _ = write(wake.write, "!", 1)
    while !state.withLock({ $0.isDone }) { poll(nil, 0, 1) }
  }

  // MARK: The thread

  private struct Waiting {
    var due: Int64
    var order: Int
    var to: Int
    var bytes: [UInt8]
  }

  /// Packets that wait, at most; more are dropped, as by any switch.
  private static let room = 16_384

  private func run() {
    let time = SystemTime()
    var places: [UInt32: Int] = [:]
    for (index, port) in ports.enumerated() { places[port.address] = index }
    var looks = ports.map { pollfd(fd: $0.descriptor, events: Int16(POLLIN), revents: 0) }
    looks.append(pollfd(fd: wake.read, events: Int16(POLLIN), revents: 0))
    var buffer = [UInt8](repeating: 0, count: 2048)
    var queue = Heap()
    var order = 0
    while !state.withLock({ $0.isEnded }) {
      let now = time.monotonicNanoseconds()
      let due = queue.first.map { max(0, ($0.due - now + 999_999) / 1_000_000) }
      poll(&looks, nfds_t(looks.count), due.map { Int32(min($0, 1000)) } ?? 1000)
      for index in ports.indices where looks[index].revents != 0 {
        // A busy host must not starve the others.
        for _ in 0..<64 {
          let count = read(ports[index].descriptor, &buffer, buffer.count)
          guard count >= 20, buffer[0] >> 4 == 4 else {
            if count > 0 { continue }
            break
          }
          let address = buffer[16..<20].reduce(UInt32(0)) { $0 << 8 | UInt32($1) }
          guard let to = places[address] else { continue }
          let fate = state.withLock { state in
            let fate = state.rules.fate(from: index, to: to, at: time.monotonicNanoseconds())
            switch fate {
            case .drop: state.counts.dropped += 1
            case .pass: state.counts.passed += 1
            case .wait:
              if queue.count < Self.room { state.counts.passed += 1 } else { state.counts.overflowed += 1 }
            }
            return fate
          }
          switch fate {
          case .drop: break
          case .pass: _ = write(ports[to].descriptor, buffer, count)
          case .wait(let due):
            guard queue.count < Self.room else { break }
            order += 1
            queue.insert(Waiting(due: due, order: order, to: to, bytes: Array(buffer[..<count])))
          }
        }
      }
      let later = time.monotonicNanoseconds()
      while let first = queue.first, first.due <= later {
        queue.removeFirst()
        _ = write(ports[first.to].descriptor, first.bytes, first.bytes.count)
      }
    }
    state.withLock { $0.isDone = true }
  }

  /// The soonest first; of those due at once, the one that came first.
  private struct Heap {
    private var items: [Waiting] = []

    var count: Int { items.count }
    var first: Waiting? { items.first }

    private func isBefore(_ a: Int, _ b: Int) -> Bool {
      (items[a].due, items[a].order) < (items[b].due, items[b].order)
    }

    mutating func insert(_ item: Waiting) {
      items.append(item)
      var child = items.count - 1
      while child > 0, isBefore(child, (child - 1) / 2) {
        items.swapAt(child, (child - 1) / 2)
        child = (child - 1) / 2
      }
    }

    mutating func removeFirst() {
      items.swapAt(0, items.count - 1)
      items.removeLast()
      var parent = 0
      while true {
        var least = parent
        for child in [2 * parent + 1, 2 * parent + 2] where child < items.count && isBefore(child, least) {
          least = child
        }
        if least == parent { return }
        items.swapAt(parent, least)
        parent = least
      }
    }
  }
}
