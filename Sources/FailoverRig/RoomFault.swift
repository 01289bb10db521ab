import Core

/// What happens to a room, and for how long.
package struct RoomFault: Sendable, Equatable, CustomStringConvertible {
  package enum Kind: Sendable, Equatable {
    /// kill -9; agents, HAProxy and etcd are started again after the fault's time, as a supervisor would.
    case kill(Program, on: Place)
    /// SIGSTOP, and SIGCONT after the fault's time.
    case freeze([Program], on: Place)
    /// From and to everybody else.
    case isolate(Place)
    case cut(Place, Place)
    /// From the first to the second nothing comes; the way back is open.
    case oneWay(Place, Place)
    /// Two halves, each of which sees only the one between them.
    case bridge(over: Place)
    case weather(NetworkRule)
    case fullDisk(on: Place)
    /// Every fsync takes so much longer.
    case slowDisk(milliseconds: Int, on: Place)
    /// Never stepped back.
    case clock(seconds: Int, on: Place)
  }

  package enum Program: String, Sendable { case postgres, agent = "salvor", haproxy, etcd }

  package enum Place: Sendable, Equatable, CustomStringConvertible {
    /// Whoever serves when it happens.
    case primary
    /// One of the others, counted from the primary.
    case standby(Int)
    case host(String)

    package var description: String {
      switch self {
      case .primary: "primary"
      case .standby(let number): "standby \(number)"
      case .host(let name): name
      }
    }
  }

  package var kind: Kind
  /// After the one before; or after the conductor has come to a state.
  package var afterMilliseconds: Int
  /// Such as `fence`: it waits for a conductor to be there, ten seconds at most.
  package var state: String?
  package var forMilliseconds: Int

  package init(_ kind: Kind, after: Int, state: String? = nil, for duration: Int) {
    (self.kind, afterMilliseconds, self.state, forMilliseconds) = (kind, after, state, duration)
  }

  package var description: String {
    let what =
      switch kind {
      case .kill(let program, let place): "kill \(program) on \(place)"
      case .freeze(let programs, let place): "freeze \(programs.map(\.rawValue).joined(separator: "+")) on \(place)"
      case .isolate(let place): "isolate \(place)"
      case .cut(let a, let b): "cut \(a) \(b)"
      case .oneWay(let a, let b): "cut \(a) to \(b)"
      case .bridge(let place): "bridge over \(place)"
      case .weather(let rule): "loss \(rule.lossThousandths)/1000 delay \(rule.delayMicroseconds / 1000) ms"
      case .fullDisk(let place): "full disk on \(place)"
      case .slowDisk(let milliseconds, let place): "fsync +\(milliseconds) ms on \(place)"
      case .clock(let seconds, let place): "clock \(seconds) s on \(place)"
      }
    return what + (state.map { " in \($0)" } ?? "") + " for \(Duration.milliseconds(forMilliseconds).brief)"
  }

  /// Whether an agent stands still or is gone, so that nothing bounds what its engine acknowledges.
  var hitsAgents: Bool {
    switch kind {
    case .kill(.agent, _): true
    case .freeze(let programs, _): programs.contains(.agent)
    default: false
    }
  }
}

/// Faults by seed, the same for the same seed.
package struct FailoverSchedule: Sendable, Equatable {
  package var seed: UInt64
  package var mode: FailoverRoom.Mode
  package var faults: [RoomFault]

  package init(seed: UInt64, mode: FailoverRoom.Mode, faults: [RoomFault]) {
    (self.seed, self.mode, self.faults) = (seed, mode, faults)
  }

  /// The first comes over the primary more often than not; others follow, some as soon as somebody conducts.
  package init(seed: UInt64, mode: FailoverRoom.Mode) {
    let chance = Chance(seed)
    var faults = [chance.below(5) == 0 ? chance.fault(onPrimary: true) : chance.blow()]
    for _ in 0..<(1 + chance.below(2)) {
      var fault = chance.fault(onPrimary: chance.below(3) == 0)
      if chance.below(2) == 0 {
        fault.state = chance.pick(["fence", "choose", "record", "promote", "repoint", "shift"])
      }
      faults.append(fault)
    }
    if mode == .bounded {
      // Nothing is promised of an engine whose agent stands still, until a watchdog ends it.
      faults.removeAll(where: \.hitsAgents)
      if faults.isEmpty { faults = [RoomFault(.kill(.postgres, on: .primary), after: 500, for: 1000)] }
    }
    self.init(seed: seed, mode: mode, faults: faults)
  }

  private struct Chance {
    let source: SeededRandomness
    init(_ seed: UInt64) { source = SeededRandomness(seed: seed) }

    func below(_ bound: Int) -> Int { source.below(bound) }
    func pick<T>(_ list: [T]) -> T { list[below(list.count)] }

    func place(_ onPrimary: Bool) -> RoomFault.Place { onPrimary ? .primary : .standby(below(2)) }

    func anywhere(_ onPrimary: Bool) -> RoomFault.Place {
      onPrimary ? .primary : pick([.standby(0), .standby(1), .host("witness"), .host("store"), .host("proxy")])
    }

    /// What a primary doesn't get over in time.
    func blow() -> RoomFault {
      let kind: RoomFault.Kind
      switch below(11) {
      case 0..<3: kind = .kill(.postgres, on: .primary)
      case 3: kind = .freeze([.postgres], on: .primary)
      case 4, 5: kind = .freeze([.postgres, .agent], on: .primary)
      case 6, 7: kind = .isolate(.primary)
      case 8: kind = .bridge(over: .host("store"))
      case 9: kind = .fullDisk(on: .primary)
      default: kind = .slowDisk(milliseconds: 400, on: .primary)
      }
      return RoomFault(kind, after: 300 + below(1500), for: 7000 + below(3000))
    }

    func fault(onPrimary: Bool) -> RoomFault {
      // Longer than the lease's five seconds, as often as not.
      let long = pick([1500, 3000, 7000])
      let kind: RoomFault.Kind
      switch below(20) {
      case 0..<4: kind = .kill(.postgres, on: place(onPrimary))
      case 4..<6: kind = .kill(.agent, on: pick([place(onPrimary), .host("witness")]))
      case 6: kind = .kill(.haproxy, on: .host("proxy"))
      case 7: kind = .kill(.etcd, on: .host("store"))
      case 8: kind = .freeze([.postgres], on: place(onPrimary))
      case 9: kind = .freeze([.agent], on: place(onPrimary))
      case 10: kind = .freeze([.postgres, .agent], on: place(onPrimary))
      case 11, 12: kind = .isolate(anywhere(onPrimary))
      case 13: kind = .cut(place(onPrimary), pick([.standby(1), .host("witness"), .host("store"), .host("proxy")]))
      case 14:
        let pair = [place(onPrimary), pick([.standby(1), .host("witness"), .host("store"), .host("proxy")])]
        kind = below(2) == 0 ? .oneWay(pair[0], pair[1]) : .oneWay(pair[1], pair[0])
      case 15: kind = .bridge(over: pick([.standby(0), .host("store"), .host("witness")]))
      case 16:
        kind = .weather(
          NetworkRule(
            lossThousandths: pick([10, 50, 150]), delayMicroseconds: Int64(pick([2, 20, 60])) * 1000,
            jitterMicroseconds: 10_000))
      case 17: kind = .fullDisk(on: place(onPrimary))
      case 18: kind = .slowDisk(milliseconds: pick([20, 100, 400]), on: place(onPrimary))
      default: kind = .clock(seconds: pick([-3600, -5, 5, 3600]), on: place(onPrimary))
      }
      return RoomFault(kind, after: 300 + below(2500), for: long + below(1000))
    }
  }
}
