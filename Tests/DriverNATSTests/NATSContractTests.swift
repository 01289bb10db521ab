import DriverContract
import Testing

/// The promises of a store that nobody holds, on a real server.
@Suite("NATS keeps the driver contract") struct NATSContractTests {
  let contract = DriverContract<NATSFixture>()

  @Test(.timeLimit(.minutes(10))) func traitsAreTold() async throws { try await contract.traitsAreTold() }
  @Test(.timeLimit(.minutes(10))) func captureIsWhole() async throws { try await contract.captureIsWhole() }
  @Test(.timeLimit(.minutes(10))) func sinkErrorsSurface() async throws { try await contract.sinkErrorsSurface() }
  @Test(.timeLimit(.minutes(10))) func restoreBesideIsProved() async throws {
    try await contract.restoreBesideIsProved()
  }
  @Test(.timeLimit(.minutes(10))) func damageIsFound() async throws { try await contract.damageIsFound() }
  @Test(.timeLimit(.minutes(10))) func swapInAndOut() async throws { try await contract.swapInAndOut() }
  @Test(.timeLimit(.minutes(10))) func swapReplays() async throws { try await contract.swapReplays() }
  @Test(.timeLimit(.minutes(10))) func lostStateComesBack() async throws { try await contract.lostStateComesBack() }
  @Test(.timeLimit(.minutes(10))) func precheckFindsNoSpace() async throws { try await contract.precheckFindsNoSpace() }
  @Test(.timeLimit(.minutes(10))) func precheckFindsReadOnlyTarget() async throws {
    try await contract.precheckFindsReadOnlyTarget()
  }
  @Test(.timeLimit(.minutes(10))) func precheckFindsOtherVersion() async throws {
    try await contract.precheckFindsOtherVersion()
  }
  @Test(.timeLimit(.minutes(10))) func precheckFindsRunningServer() async throws {
    try await contract.precheckFindsRunningServer()
  }
  @Test(.timeLimit(.minutes(10))) func swapIsRefusedWhileInUse() async throws {
    try await contract.swapIsRefusedWhileInUse()
  }
  @Test(.timeLimit(.minutes(10))) func queriesOnlyRead() async throws {
    try await contract.queriesOnlyRead(
      reading: "MESSAGES RECORDS",
      writing: ["DELETE RECORDS", "PURGE RECORDS", "PUB record.1 x", "MESSAGES RECORDS.PURGE", "COUNT", ""])
  }
}
