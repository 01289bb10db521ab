import Core
import Foundation
import Testing

@testable import DriverKit

@Suite struct ServerCommandTests {
  @Test func `commands are split without a shell`() {
    #expect(
      splitCommand("  pg_ctlcluster 15 'my main' \"\" start;x ") == ["pg_ctlcluster", "15", "my main", "", "start;x"])
    #expect(splitCommand(" ").isEmpty)
  }

  /// As an operator's start command does that doesn't close what it inherited.
  @Test(.timeLimit(.minutes(10))) func `a daemon that is left behind holds nobody up`() async throws {
    let clock = ContinuousClock()
    let began = clock.now
    let said = try await ServerCommand(
      executable: "/bin/sh", arguments: ["-c", "sleep 600 & echo $!"], user: nil
    ).run()
    #expect(clock.now - began < .seconds(300))
    let daemon = try #require(pid_t(said.trimmingCharacters(in: .whitespacesAndNewlines)))
    #expect(kill(daemon, SIGKILL) == 0)
  }

  @Test func `what a command said last is in the error, and much output is no failure`() async throws {
    let command = ServerCommand(
      executable: "/bin/sh", arguments: ["-c", "head -c 5000000 /dev/zero | tr '\\0' x; echo; echo why >&2; exit 3"],
      user: nil)
    let error = await #expect(throws: DriverError.self) { try await command.run() }
    guard case .engineFailed(let what, let log) = error else {
      Issue.record("\(String(describing: error))")
      return
    }
    #expect(what.contains("sh failed"))
    #expect(log.hasSuffix("why"))
    #expect(log.utf8.count <= 1 << 16)
  }

  @Test func `an operator's command that is empty is refused by the option's name`() async throws {
    let error = await #expect(throws: DriverError.self) { try await runCommand(" ", option: "start", store: "ledger") }
    #expect("\(String(describing: error))".contains("start"))
  }
}
