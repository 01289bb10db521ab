import ArgumentParser
import AsyncHTTPClient
import Core
import Foundation
import IO
import NIOCore
import NIOHTTP1
import Synchronization

#if canImport(Glibc)
  import Glibc
#endif

/// Set by SIGTERM and SIGINT.
private let isStopping = Atomic<Bool>(false)

struct Load: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Drive transfers through the gateway and record every one that was acknowledged.",
    discussion: """
      The record gets one line `id,amount,ns` per acknowledged transfer: ns is the wall clock in nanoseconds when the \
      acknowledgement arrived. A JSON summary is printed at the end, or at SIGTERM.
      """)

  @Option(help: "The gateway's URL.") var gateway: String
  @Option(help: "Transfers to start per second; 0 for as many as come back.") var rate: Double = 100
  @Option(help: "Transfers under way at once, at most.") var concurrency: Int = 16
  @Option(help: "Seed of the sequence of transfers.") var seed: UInt64 = 1
  @Option(help: "How long to go on; 0 for until SIGTERM.") var seconds: Double = 10
  @Option(help: "Accounts there are, a-0 and on.") var accounts: Int = 1000
  @Option(help: "File to append acknowledged transfers to.") var record: String

  func validate() throws {
    guard concurrency > 0, concurrency <= 1024 else { throw ValidationError("--concurrency must be 1 to 1024") }
    guard accounts > 1 else { throw ValidationError("--accounts must be at least 2") }
    guard rate >= 0, seconds >= 0, rate.isFinite, seconds < 1e9 else {
      throw ValidationError("--rate and --seconds can't be negative")
    }
  }

  func run() async throws {
    for number in [SIGTERM, SIGINT] { signal(number) { _ in isStopping.store(true, ordering: .relaxed) } }
    let client = makeClient()
    let file = try File(record, O_WRONLY | O_CREAT | O_APPEND, mode: 0o644)
    let driver = LoadDriver(
      client: client, url: "\(gateway)/transfers", accounts: accounts, random: SeededRandomness(seed: seed),
      pace: Pace(rate: rate, limit: seconds), record: file)
    await withTaskGroup(of: Void.self) { group in
      for _ in 0..<concurrency { group.addTask { await driver.work() } }
    }
    try await client.shutdown()
    print(try CanonicalJSON.text(driver.summary()))
  }
}

/// Says when the next transfer is due.
final class Pace: Sendable {
  private let time = SystemTime()
  private let start: Int64
  private let interval: Double
  private let end: Int64
  private let count = Atomic<Int>(0)

  /// - Parameter limit: Seconds; 0 for none.
  init(rate: Double, limit: Double) {
    start = time.monotonicNanoseconds()
    interval = rate > 0 ? 1e9 / rate : 0
    end = limit > 0 ? start + Int64(limit * 1e9) : .max
  }

  var elapsedSeconds: Double { Double(time.monotonicNanoseconds() - start) / 1e9 }

  /// Waits until it is time; `false` when it is over.
  func next() async -> Bool {
    let number = count.wrappingAdd(1, ordering: .relaxed).oldValue
    let due = start + Int64(Double(number) * interval)
    while !isStopping.load(ordering: .relaxed) {
      let now = time.monotonicNanoseconds()
      if now >= end { return false }
      if now >= due { return true }
      // In slices, so that a signal is seen soon.
      try? await time.sleep(for: .nanoseconds(min(due - now, 50_000_000)))
    }
    return false
  }
}

/// What a run of the load came to.
struct LoadSummary: Codable, Sendable {
  var attempted = 0
  var acknowledged = 0
  var failed = 0
  var seconds = 0.0
  /// Of acknowledged transfers, in milliseconds.
  var latencyP50Milliseconds = 0.0
  var latencyP99Milliseconds = 0.0
  var latencyMaxMilliseconds = 0.0
  var lastFailure: String?
}

final class LoadDriver: Sendable {
  private struct Tally {
    var attempted = 0
    var latencies: [Int64] = []
    var failed = 0
    var lastFailure: String?
  }

  private let client: HTTPClient
  private let url: String
  private let accounts: Int
  private let random: SeededRandomness
  private let pace: Pace
  private let record: File
  private let time = SystemTime()
  private let tally = Mutex(Tally())

  init(client: HTTPClient, url: String, accounts: Int, random: SeededRandomness, pace: Pace, record: File) {
    (self.client, self.url, self.accounts) = (client, url, accounts)
    (self.random, self.pace, self.record) = (random, pace, record)
  }

  func work() async {
    while await pace.next() {
      let from = random.below(accounts)
      let to = (from + 1 + random.below(accounts - 1)) % accounts
      let amount = Int64(1 + random.below(100))
      let request = TransferRequest(from: "a-\(from)", to: "a-\(to)", amount: amount, customer: "c-\(from)")
      tally.withLock { $0.attempted += 1 }
      let start = time.monotonicNanoseconds()
      do {
        let id = try await send(request)
        let nanoseconds = time.monotonicNanoseconds() - start
        let line = Array("\(id),\(amount),\(time.now().nanoseconds)\n".utf8)
        // O_APPEND and one write per line: whole lines, in the kernel's hands before the next transfer starts.
        try line.withRawBytes { (raw) throws(SystemFailure) in try record.write(raw) }
        tally.withLock { $0.latencies.append(nanoseconds) }
      } catch {
        tally.withLock { tally in
          tally.failed += 1
          tally.lastFailure = "\(error)"
        }
        // A bank that is down is not to be hammered.
        try? await time.sleep(for: .milliseconds(20))
      }
    }
  }

  private func send(_ transfer: TransferRequest) async throws -> String {
    let body = try CanonicalJSON.encode(transfer)
    var request = HTTPClientRequest(url: url)
    request.method = .POST
    request.body = .bytes(body, length: .known(Int64(body.count)))
    let response = try await client.execute(request, timeout: .seconds(30))
    let answer = try await response.body.collect(upTo: 1 << 20)
    guard response.status.code == 201 else {
      throw BankError.peerAway("gateway", "\(response.status.code) \(String(buffer: answer).prefix(500))")
    }
    return try CanonicalJSON.decode(TransferReceipt.self, from: Array(buffer: answer)).id
  }

  func summary() -> LoadSummary {
    tally.withLock { tally in
      var summary = LoadSummary()
      summary.attempted = tally.attempted
      summary.acknowledged = tally.latencies.count
      summary.failed = tally.failed
      summary.seconds = (pace.elapsedSeconds * 1000).rounded() / 1000
      summary.lastFailure = tally.lastFailure
      let sorted = tally.latencies.sorted()
      func rank(_ share: Double) -> Double {
        guard !sorted.isEmpty else { return 0 }
        let index = min(sorted.count - 1, Int(Double(sorted.count) * share))
        return (Double(sorted[index]) / 1e3).rounded() / 1e3
      }
      summary.latencyP50Milliseconds = rank(0.5)
      summary.latencyP99Milliseconds = rank(0.99)
      summary.latencyMaxMilliseconds = rank(1)
      return summary
    }
  }
}
