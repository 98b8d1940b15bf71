"""How good an adapter is: arms, intervals, the paired comparison and its report.

``suites`` alone knows both GenEval's rules and the embedded world.
"""
