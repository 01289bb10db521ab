import Catalog
import Core
import Failover
import IO
import Web

/// Asks what a policy's checks ask, each at its own pace, until its task is cancelled.
package struct SignalWatch: Sendable {
  private let checks: [FailoverCheck]
  private let sources: SignalSources
  private let host: Machine

  /// - Parameter isMember: Beside a member what concerns its host is asked too.
  package init(_ policy: FailoverPolicy, isMember: Bool, web: any WebTransport, host: Machine) {
    checks = policy.checks.filter { !$0.asks.isDerived && (isMember || !$0.asks.isLocal) }
    sources = SignalSources(web: web, host: host)
    self.host = host
  }

  /// - Parameters:
  ///   - primary: Who is recorded; what is about the primary waits while nobody is.
  ///   - told: Every sample, with when it was asked.
  package func run(
    primary: @escaping @Sendable () async -> FailoverPolicy.Member?,
    told: @escaping @Sendable (CheckName, SignalSample, MemberName?) async -> Void
  ) async throws {
    try await withThrowingTaskGroup(of: Void.self) { group in
      for check in checks {
        group.addTask {
          while true {
            let subject = await primary()
            if check.asks.isLocal || subject != nil {
              let sample = await sources.ask(check, of: subject)
              await told(check.name, sample, check.asks.isLocal ? nil : subject?.name)
            }
            try await host.time.sleep(for: check.interval)
          }
        }
      }
      try await group.waitForAll()
    }
  }
}

/// One try of a check. What isn't answered, and what makes no sense, is unknown: it is never taken for well.
package struct SignalSources: Sendable {
  private let web: any WebTransport
  private let host: Machine

  package init(web: any WebTransport, host: Machine) { (self.web, self.host) = (web, host) }

  package func ask(_ check: FailoverCheck, of primary: FailoverPolicy.Member?) async -> SignalSample {
    switch check.asks {
    case .tcp(let address): await connect(address ?? primary?.address ?? "", check.patience)
    case .http(let url, let status): await get(url, status, primary, check.patience)
    case .prometheus(let url, let query): await prometheus(url, query, check)
    case .pressure(let resource): await read("/proc/pressure/\(resource.rawValue)", HostSignals.pressure)
    case .diskUsed(let path): await host.pool.run { HostSignals.diskUsed(path) }
    case .readOnly(let path): await host.pool.run { HostSignals.readOnly(path) }
    case .command(let command): await run(command, check.patience)
    case .beat, .lagBytes, .lagSeconds: .unknown
    }
  }

  private func since(_ began: Int64) -> SignalSample {
    .value((host.time.monotonicNanoseconds() - began) / 1_000_000)
  }

  private func connect(_ address: String, _ patience: Duration) async -> SignalSample {
    guard let colon = address.lastIndex(of: ":"), let port = UInt16(address[address.index(after: colon)...]) else {
      return .unknown
    }
    var name = String(address[..<colon])
    if name.hasPrefix("["), name.hasSuffix("]") { name = String(name.dropFirst().dropLast()) }
    let began = host.time.monotonicNanoseconds()
    let place = name
    return await host.pool.run { HostSignals.connects(to: place, port: port, patience: patience) }
      .map { $0 ? since(began) : .failed } ?? .unknown
  }

  private func get(
    _ url: String, _ status: Int, _ primary: FailoverPolicy.Member?, _ patience: Duration
  ) async -> SignalSample {
    var url = url
    if url.contains("{host}") {
      guard let address = primary?.address, let colon = address.lastIndex(of: ":") else { return .unknown }
      url = url.replacing("{host}", with: String(address[..<colon]))
    }
    var request = WebRequest(.get, url)
    (request.timeLimit, request.stallLimit, request.responseLimitBytes) = (patience, patience, 1 << 20)
    let began = host.time.monotonicNanoseconds()
    do throws(WebFailure) {
      let response = try await web.send(request)
      return response.status == status ? since(began) : .failed
    } catch {
      switch error {
      // Its own fault, or ours: an address that can't be understood says nothing of the primary.
      case .connection, .timeLimit, .stalled, .tooLarge: return .failed
      default: return .unknown
      }
    }
  }

  private func prometheus(_ url: String, _ query: String, _ check: FailoverCheck) async -> SignalSample {
    let base = url.hasSuffix("/") ? String(url.dropLast()) : url
    var request = WebRequest(.get, "\(base)/api/v1/query?query=\(PrometheusAnswer.encoded(query))")
    (request.timeLimit, request.stallLimit) = (check.patience, check.patience)
    request.responseLimitBytes = PrometheusAnswer.limitBytes
    guard let response = try? await web.send(request), response.isSuccess else { return .unknown }
    return PrometheusAnswer.sample(response.body, now: host.time.now(), freshness: check.freshness)
  }

  private func read(_ path: String, _ parse: @escaping @Sendable ([UInt8]) -> SignalSample) async -> SignalSample {
    await host.pool.run {
      guard let bytes = try? Files.read(path, limitBytes: 4096) else { return .unknown }
      return parse(bytes)
    }
  }

  private func run(_ command: Command, _ patience: Duration) async -> SignalSample {
    var command = command
    command.timeout = min(command.timeout, max(patience, .seconds(1)))
    guard let answer = try? await execute(command, host.secrets), answer.status == 0 else { return .unknown }
    return HostSignals.number(answer.output)
  }
}
