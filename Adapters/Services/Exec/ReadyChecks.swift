import AsyncHTTPClient
import Core
import IO
import NIOCore
import NIOHTTP1
import StateKit

#if canImport(Glibc)
  import Glibc
#endif

extension ExecServiceRunner {
  package func waitUntilReady(_ service: ServiceUnit) async throws(ServiceError) -> [ReadyEvidence] {
    guard !service.ready.isEmpty else { throw .noChecks(service.name) }
    var evidence: [ReadyEvidence] = []
    for check in service.ready {
      let start = time.monotonicNanoseconds()
      var attempt = 0
      while true {
        attempt += 1
        do {
          try await evaluate(check, of: service.name)
          break
        } catch {
          if error == .cancelled || attempt >= check.attempts { throw error }
        }
        if try await status(service) == .notRunning {
          throw .diedEarly(service.name, log: await tail(of: logPath(service.name)))
        }
        try await pause(.milliseconds(max(1, check.intervalMilliseconds)))
      }
      evidence.append(
        ReadyEvidence(
          check: check.name, attempt: attempt, at: time.now(),
          waitedNanoseconds: time.monotonicNanoseconds() - start))
    }
    return evidence
  }

  package func evaluate(_ check: ReadyCheck, of service: ServiceName) async throws(ServiceError) {
    let timeout = Duration.milliseconds(max(1, check.timeoutMilliseconds))
    do {
      switch check.probe {
      case .exec(var command):
        command.timeoutMilliseconds = min(command.timeoutMilliseconds, check.timeoutMilliseconds)
        try await run(command, of: service, what: check.name)
      case .tcp(let host, let port):
        let pool = pool
        try await pool.run { () throws(Unready) in try connect(to: host, port: port, timeout: timeout) }
      case .http(let url, let status, let text):
        try await get(url, expecting: status, bodyContains: text, timeout: timeout)
      case .sql(let store, let query, let expected):
        try await ask(store, query, expecting: expected, timeout: timeout)
      }
    } catch let error as ServiceError {
      switch error {
      case .cancelled, .badCommand, .unknownUser, .secret: throw error
      default: throw .notReady(service, check: check.name, why: error.report.summary)
      }
    } catch let error as Unready {
      throw .notReady(service, check: check.name, why: error.why)
    } catch {
      if Task.isCancelled { throw .cancelled }
      throw .notReady(service, check: check.name, why: AnyFailure(error).report.summary)
    }
  }

  private func get(
    _ url: String, expecting status: ClosedRange<Int>, bodyContains text: String?, timeout: Duration
  ) async throws {
    var request = HTTPClientRequest(url: url)
    request.headers.add(name: "user-agent", value: "salvor")
    let response = try await HTTPClient.shared.execute(
      request, timeout: .nanoseconds(timeout.wholeNanoseconds))
    let code = Int(response.status.code)
    guard status.contains(code) else { throw Unready("\(url) answers \(code)") }
    guard let text else { return }
    let limitBytes = 1 << 20
    let body = try await time.withTimeLimit(timeout) {
      do { return try await response.body.collect(upTo: limitBytes) } catch is NIOTooManyBytesError {
        throw Unready("\(url) answers more than \(limitBytes) bytes")
      }
    }
    guard String(buffer: body).contains(text) else { throw Unready("\(url) answers without '\(text)'") }
  }

  private func ask(_ store: StoreName, _ query: String, expecting expected: String?, timeout: Duration) async throws {
    guard let runQuery else { throw Unready("store \(store) can't be asked from here") }
    let rows = try await time.withTimeLimit(timeout) { try await runQuery(store, query, timeout) }
    guard let first = rows.first else { throw Unready("the query has no row") }
    guard let expected else { return }
    let found = first.first.flatMap { $0 } ?? "NULL"
    guard found == expected else { throw Unready("the query says '\(found)', not '\(expected)'") }
  }
}

private struct Unready: Error {
  var why: String
  init(_ why: String) { self.why = why }
}

/// Connects and hangs up. Tries each address the name has, within `timeout` in all; blocks.
private func connect(to host: String, port: UInt16, timeout: Duration) throws(Unready) {
  var hints = addrinfo()
  hints.ai_socktype = Int32(SOCK_STREAM.rawValue)
  var list: UnsafeMutablePointer<addrinfo>?
  let code = getaddrinfo(host, String(port), &hints, &list)
  guard code == 0 else { throw Unready("\(host): \(String(cString: gai_strerror(code)))") }
  defer { freeaddrinfo(list) }
  var left = Int32(clamping: Int64(timeout.milliseconds))
  var why = "\(host) has no address"
  var next = list
  while let address = next?.pointee {
    next = address.ai_next
    let descriptor = socket(
      address.ai_family, address.ai_socktype | Int32(SOCK_NONBLOCK.rawValue) | Int32(SOCK_CLOEXEC.rawValue),
      address.ai_protocol)
    guard descriptor >= 0 else { continue }
    defer { close(descriptor) }
    if Glibc.connect(descriptor, address.ai_addr, address.ai_addrlen) == 0 { return }
    guard errno == EINPROGRESS else {
      why = String(cString: strerror(errno)).lowercased()
      continue
    }
    var waiting = pollfd(fd: descriptor, events: Int16(POLLOUT), revents: 0)
    let share = next == nil ? left : max(1, left / 2)
    guard retryingInterrupts({ poll(&waiting, 1, share) }) == 1 else {
      left = max(1, left - share)
      why = "no answer from \(host):\(port) within \(timeout.brief)"
      continue
    }
    var error: Int32 = 0
    var length = socklen_t(MemoryLayout<Int32>.size)
    getsockopt(descriptor, SOL_SOCKET, SO_ERROR, &error, &length)
    if error == 0 { return }
    why = "\(host):\(port): \(String(cString: strerror(error)).lowercased())"
  }
  throw Unready(why)
}
