"""How hot it feels: a rule function for policies. Pure: JSON values in, a JSON value out, the same on every machine.

Only ``+ - * /`` on doubles, which every machine computes alike: powers and ``math.exp`` may differ in the last digit
between C libraries, and two honest agents would then disagree.
"""

# by the power of the temperature, then by that of the humidity
COEFFICIENTS = (
    (-8.78469475556, 2.33854883889, -0.0164248277778),
    (1.61139411, -0.14611605, 0.00072546),
    (-0.012308094, 0.002211732, -0.000003582),
)
APPLIES_FROM_C = 26.7


def heat_index(temperature_c: float, humidity_percent: float) -> float:
    """The heat index in degrees Celsius (Rothfusz, in its metric form), to one decimal.

    Raises:
        ValueError: The humidity is not from 0 to 100: the rule that asks says so in its issue.
    """
    if not 0 <= humidity_percent <= 100:
        raise ValueError("humidity is 0 to 100 percent")
    if temperature_c < APPLIES_FROM_C:
        return temperature_c
    total = 0.0
    for row in reversed(COEFFICIENTS):
        part = 0.0
        for coefficient in reversed(row):
            part = part * humidity_percent + coefficient
        total = total * temperature_c + part
    return round(total, 1)
