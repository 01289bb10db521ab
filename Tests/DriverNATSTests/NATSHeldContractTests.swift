import DriverContract
import Testing

/// The promises of a store that is held, on a real server.
@Suite("NATS that stands still keeps the driver contract") struct NATSHeldContractTests {
  let contract = DriverContract<NATSHeldFixture>()

  @Test(.timeLimit(.minutes(10))) func traitsAreTold() async throws { try await contract.traitsAreTold() }
  @Test(.timeLimit(.minutes(10))) func captureIsWhole() async throws { try await contract.captureIsWhole() }
  @Test(.timeLimit(.minutes(10))) func digestIsOfTheContent() async throws { try await contract.digestIsOfTheContent() }
  @Test(.timeLimit(.minutes(10))) func cutIsExact() async throws { try await contract.cutIsExact() }
  @Test(.timeLimit(.minutes(10))) func heldMeansHeld() async throws { try await contract.heldMeansHeld() }
  @Test(.timeLimit(.minutes(10))) func holdLapsesByItself() async throws { try await contract.holdLapsesByItself() }
  @Test(.timeLimit(.minutes(10))) func closeFrees() async throws { try await contract.closeFrees() }
  @Test(.timeLimit(.minutes(10))) func cancellationFrees() async throws { try await contract.cancellationFrees() }
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
      writing: ["DELETE RECORDS", "PURGE RECORDS", ""])
  }
}
